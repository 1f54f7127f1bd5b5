// Byte-level BPE as in tokenizer.json: text split by a pattern, bytes as characters, merges by rank.

const WHITE = "\\t\\n\\v\\f\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // what is white in Unicode; JavaScript's \s differs

function wordPattern(source) {
  const inside = text => text.replaceAll("\\s", WHITE);
  return new RegExp(source.replace(/\[[^\]]*\]/g, inside).replaceAll("\\s", `[${WHITE}]`).replaceAll("\\S", `[^${WHITE}]`), "gu");
}

class Tokenizer {
  constructor({ vocab, merges, pattern: source, special }) {
    this.vocab = new Map(Object.entries(vocab));
    this.ranks = new Map(merges.map((pair, rank) => [pair.join("\u0000"), rank]));
    this.pattern = wordPattern(source);
    this.special = new Map(Object.entries(special));
    this.texts = new Map([...this.vocab, ...this.special].map(([text, id]) => [id, text]));
    this.specialIds = new Set(this.special.values());
    const plain = [...Array(256).keys()].filter(b => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    let more = 0;
    this.byteText = Array.from({ length: 256 }, (_, b) => String.fromCodePoint(plain.includes(b) ? b : 256 + more++));
    this.textByte = new Map(this.byteText.map((text, b) => [text, b]));
  }

  encode(text) {
    const ids = [], bytes = new TextEncoder();
    for (const [word] of text.matchAll(this.pattern)) ids.push(...this.merged([...bytes.encode(word)].map(b => this.byteText[b])));
    return ids;
  }

  merged(parts) {
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) best = Math.min(best, this.ranks.get(`${parts[i]}\u0000${parts[i + 1]}`) ?? Infinity);
      if (best === Infinity) break;
      const next = [];
      for (let i = 0; i < parts.length; i++) {
        if (i + 1 < parts.length && this.ranks.get(`${parts[i]}\u0000${parts[i + 1]}`) === best) next.push(parts[i] + parts[++i]);
        else next.push(parts[i]);
      }
      parts = next;
    }
    return parts.map(part => this.vocab.get(part));
  }

  decode(ids) {
    const bytes = [];
    let text = "";
    const flush = () => {
      text += new TextDecoder().decode(Uint8Array.from(bytes.splice(0)));
    };
    for (const id of ids) {
      if (this.specialIds.has(id)) {
        flush();
        text += this.texts.get(id);
      } else for (const character of this.texts.get(id) || "") bytes.push(this.textByte.get(character));
    }
    flush();
    return text;
  }
}
