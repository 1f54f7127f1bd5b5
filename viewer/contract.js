/** The data fits viewer/contract.json, or the page says where it does not. The twin of contract.py. */
function checkContract(records, value, kind, where) {
  const fail = () => { throw new Error(`${where} does not fit the page's contract; it must be ${kind}.`); };
  const isRecord = (each) => each !== null && typeof each === "object" && !Array.isArray(each);
  if (kind.endsWith("?")) {
    if (value !== null) checkContract(records, value, kind.slice(0, -1), where);
  } else if (kind[0] === "[") {
    if (!Array.isArray(value)) fail();
    value.forEach((each, i) => checkContract(records, each, kind.slice(1, -1), `${where}[${i}]`));
  } else if (kind[0] === "{") {
    if (!isRecord(value)) fail();
    for (const [key, each] of Object.entries(value)) checkContract(records, each, kind.slice(1, -1), `${where}.${key}`);
  } else if (Object.hasOwn(records, kind)) {
    const fields = records[kind];
    if (!isRecord(value) || Object.keys(value).length !== Object.keys(fields).length) fail();
    for (const [name, each] of Object.entries(fields)) {
      if (!Object.hasOwn(value, name)) fail();
      checkContract(records, value[name], each, `${where}.${name}`);
    }
  } else {
    const plain = { string: typeof value === "string", bool: typeof value === "boolean", int: Number.isInteger(value), number: Number.isFinite(value) };
    if (!plain[kind]) fail();
  }
}
