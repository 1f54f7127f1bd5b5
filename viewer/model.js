// The model itself, token by token: embedding, norms, AbsTopK, attention with its sink, MLP, bigram table; nodes and edges switched off or held.
// Held to PyTorch in float64 by tests/viewer/test_runtime.py; sums and activations are doubles, weights as stored.

const CHUNK = 1 << 13; // numbers that are made at once
const EPS = { rms_norm: 1.1920929e-7, layer_norm: 1e-5 };

async function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed.data), character => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  if (globalThis.crypto && crypto.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", buffer));
    const text = [...digest].map(byte => byte.toString(16).padStart(2, "0")).join("");
    if (text !== packed.sha256) throw new Error("The page's weights are not those that it was written with; get the page again.");
  }
  const tensors = new Map();
  for (const [name, part] of Object.entries(packed.tensors)) tensors.set(name, tensorOf(part, buffer));
  return tensors;
}

function tensorOf(part, buffer) {
  const view = (kind, place) => {
    const [first, count] = place;
    if (kind === "f32planes" || kind === "u16planes") { // all first bytes, then all second ones, ...
      const size = kind === "f32planes" ? 4 : 2, planes = new Uint8Array(buffer, first, count * size), bytes = new Uint8Array(count * size);
      for (let b = 0; b < size; b++) for (let i = 0; i < count; i++) bytes[i * size + b] = planes[b * count + i];
      return size === 4 ? new Float32Array(bytes.buffer) : new Uint16Array(bytes.buffer);
    }
    if (kind === "bf16") {
      const wide = new Uint32Array(count), narrow = new Uint16Array(buffer, first, count);
      for (let i = 0; i < count; i++) wide[i] = narrow[i] << 16;
      return new Float32Array(wide.buffer);
    }
    return new { f32: Float32Array, u8: Uint8Array, i32: Int32Array, u16: Uint16Array, u32: Uint32Array }[kind](buffer, first, count);
  };
  if (part.kind === "grid") return { shape: part.shape, values: gridOf(part, view) };
  if (part.kind === "dense") return { shape: part.shape, values: view(part.type, part.values) };
  return { // a matrix by its columns: for each input the outputs that it goes to
    shape: part.shape, starts: view("u32", part.starts), rows: view(part.index, part.rows), weights: view(part.type, part.weights),
  };
}

// A table in eighths: a number for each row, one for each column, in sixteenths, and the rest by columns, both in the order of those numbers (weights.py).
function gridOf(part, view) {
  const [height, width] = part.shape, values = new Float32Array(height * width);
  const rows = view("i32", part.rows), columns = view("i32", part.columns), low = view("u8", part.low), high = view("u8", part.high);
  const order = numbers => Uint32Array.from(numbers.keys()).sort((a, b) => numbers[a] - numbers[b] || a - b), down = order(rows), across = order(columns);
  let n = 0;
  for (const j of across) {
    for (const i of down) {
      const folded = low[n] | (high[n++] << 8);
      values[i * width + j] = (((rows[i] + columns[j] + 8) >> 4) + ((folded >> 1) ^ -(folded & 1))) / 8;
    }
  }
  return values;
}

class Model {
  constructor(config, tensors) {
    this.config = config;
    this.tensors = tensors;
    this.layers = Array.from({ length: config.n_layer }, (_, i) => this.layer(i));
    this.table = tensors.get("bigram_table.logit_bias") || null;
    this.finalNorm = { weight: tensors.get("transformer.final_norm.weight").values, bias: this.valuesOf("transformer.final_norm.bias") };
    this.chunk = new Float64Array(0);
    this.used = 0;
    this.bases = new WeakMap(); // of a site's hold: what comes out of its matrix, and of its neurons, with all held
    this.actives = new WeakMap();
  }

  tensor(name) {
    return this.tensors.get(name) || null;
  }

  // Zeros, a part of a larger array: making one for each use would take longer than most of what is done with them.
  fresh(length) {
    if (this.used + length > this.chunk.length) [this.chunk, this.used] = [new Float64Array(Math.max(length, CHUNK)), 0];
    return this.chunk.subarray(this.used, this.used += length);
  }

  layer(i) {
    const at = `transformer.h.${i}.`, part = name => this.tensor(at + name);
    const linear = name => ({ matrix: part(`${name}.weight`), bias: part(`${name}.bias`) });
    const norm = name => (part(`${name}.weight`) ? { weight: part(`${name}.weight`).values, bias: part(`${name}.bias`) && part(`${name}.bias`).values } : null);
    const sites = { attnIn: "attn.act_in", q: "attn.q", k: "attn.k", v: "attn.v", y: "attn.y", attnOut: "attn.resid_delta", mlpIn: "mlp.act_in", neurons: "mlp.post_act", mlpOut: "mlp.resid_delta" };
    for (const [name, path] of Object.entries(sites)) sites[name] = `${i}.${path}`;
    return {
      sites, edges: Object.fromEntries(["q", "k", "v"].map(kind => [kind, `${sites.attnIn}->${sites[kind]}`]).concat([["attnOut", `${sites.v}->${sites.attnOut}`], ["neurons", `${sites.mlpIn}->${sites.neurons}`], ["mlpOut", `${sites.neurons}->${sites.mlpOut}`]])),
      attnNorm: norm("attn_norm"), attnPosNorm: norm("attn_pos_norm"), mlpNorm: norm("mlp_norm"), mlpPosNorm: norm("mlp_pos_norm"),
      cAttn: linear("attn.c_attn"), attnProj: linear("attn.c_proj"), cFc: linear("mlp.c_fc"), mlpProj: linear("mlp.c_proj"),
      sink: part("attn.sink_bias") && part("attn.sink_bias").values,
    };
  }

  begin() {
    return { tokens: 0, keys: this.layers.map(() => []), values: this.layers.map(() => []) };
  }

  // Logits after one token more. run: {hold: site -> {open, fill}, held: site -> [[node, value]], cut: map -> [[source, target, weight]], means,
  // scales: what norms multiply with at this token, or null; record: what is seen, {sites, scales}, or null; quiet: no logits are wanted}.
  step(cache, id, run = {}) {
    const { config } = this, at = cache.tokens++, scales = run.record ? (run.record.scales = []) : null;
    let x = this.embedded(id, at);
    const positions = config.position_embedding_type === "concatenated" ? this.row("transformer.wpe.weight", at) : null;
    const norm = (input, weights, n) => this.norm(input, weights, run.scales ? run.scales[n] : null, scales);
    const held = name => (run.hold && run.hold.get(name)) || null;
    let n = 0;
    this.layers.forEach((layer, i) => {
      x = this.kept(x, "resid_pre");
      const { sites, edges } = layer, reads = this.withPositions(norm(x, layer.attnNorm, n++), layer.attnPosNorm, positions);
      const a = this.site(sites.attnIn, "attn_in", reads, run);
      x = this.residual(x, this.attention(layer, i, a, cache, run), "resid_post_attn");
      const m = this.site(sites.mlpIn, "mlp_in", this.withPositions(norm(x, layer.mlpNorm, n++), layer.mlpPosNorm, positions), run);
      const into = held(sites.mlpIn), hidden = this.linear(layer.cFc, m, into);
      this.cut(run, edges.neurons, m, hidden, 0, sites.mlpIn);
      this.activated(hidden, into);
      const neurons = this.site(sites.neurons, "mlp_neuron", hidden, run), out = this.linear(layer.mlpProj, neurons, held(sites.neurons));
      this.cut(run, edges.mlpOut, neurons, out, 0, sites.neurons);
      x = this.residual(x, this.site(sites.mlpOut, "mlp_out", out, run), "resid_post_mlp");
    });
    x = this.site("final_resid", null, x, run);
    if (run.quiet) return null;
    return this.logits(norm(x, this.finalNorm, n), id);
  }

  // Of an edge: the weight from node s of one site to node t of another.
  weight(source, s, target, t) {
    const [at, path] = [Number(source.split(".")[0]), target.replace(/^\d+\./, "")], layer = this.layers[at], part = { "attn.q": 0, "attn.k": 1, "attn.v": 2 }[path];
    const { matrix } = path === "attn.resid_delta" ? layer.attnProj : path === "mlp.post_act" ? layer.cFc : path === "mlp.resid_delta" ? layer.mlpProj : layer.cAttn;
    const row = part === undefined ? t : part * this.config.n_head * this.config.d_head + t;
    for (let n = matrix.starts[s]; n < matrix.starts[s + 1]; n++) if (matrix.rows[n] === row) return matrix.weights[n];
    return 0;
  }

  valuesOf(name) {
    const found = this.tensor(name);
    return found && found.values;
  }

  row(name, index) {
    const { shape, values } = this.tensor(name);
    return Float64Array.from(values.subarray(index * shape[1], (index + 1) * shape[1]));
  }

  embedded(id, at) {
    const x = new Float64Array(this.config.d_model), wte = this.tensor("transformer.wte.weight"); // by token: its channels
    for (let n = wte.starts[id]; n < wte.starts[id + 1]; n++) x[wte.rows[n]] = wte.weights[n];
    if (this.config.position_embedding_type === "added") {
      const row = this.row("transformer.wpe.weight", at);
      for (let c = 0; c < x.length; c++) x[c] += row[c];
    }
    return x;
  }

  norm(x, weights, scale, record) {
    const kind = this.config.norm_type;
    let mean = 0, square = 0;
    if (kind === "layer_norm") {
      for (const each of x) mean += each;
      mean /= x.length;
    }
    for (let c = 0; c < x.length; c++) square += (x[c] - mean) * (x[c] - mean);
    const own = 1 / Math.sqrt(square / x.length + EPS[kind]);
    if (record) record.push(own);
    const used = scale === null ? own : scale;
    const { weight, bias } = weights, out = (weights.out ??= new Float64Array(x.length));
    if (bias) for (let c = 0; c < x.length; c++) out[c] = (x[c] - mean) * used * weight[c] + bias[c];
    else for (let c = 0; c < x.length; c++) out[c] = (x[c] - mean) * used * weight[c];
    return out;
  }

  withPositions(x, weights, positions) {
    if (!weights || !positions) return x;
    const wide = this.fresh(x.length + positions.length);
    wide.set(x);
    wide.set(this.norm(positions, weights, null, null), x.length);
    return wide;
  }

  // AbsTopK, then what the run holds; what comes out is the nodes' activation, in an array of its own.
  site(name, location, x, run) {
    const share = location === null ? undefined : this.config.afrac[location];
    const out = this.fresh(x.length);
    if (share === undefined) out.set(x);
    else absTopK(x, Math.trunc(share * x.length), out);
    const hold = run.hold && run.hold.get(name), held = run.held && run.held.get(name);
    if (hold) for (let i = 0; i < out.length; i++) if (!hold.open[i]) out[i] = hold.fill[i];
    if (held) for (const [node, value] of held) out[node] = value;
    if (run.record) run.record.sites.set(name, out);
    return out;
  }

  residual(x, delta, location) {
    const sum = this.fresh(x.length), kind = this.config.residual_activation_type;
    for (let c = 0; c < x.length; c++) sum[c] = activate(kind, x[c] + delta[c]);
    return this.kept(sum, location);
  }

  // What AbsTopK leaves of the residual stream where it acts on it: x itself, or an array of its own.
  kept(x, location) {
    const share = this.config.afrac[location];
    return share === undefined ? x : absTopK(x, Math.trunc(share * x.length), this.fresh(x.length));
  }

  // Matrix times x, and the bias; x is what comes out of a site, hold is how the run holds that: then only what differs from it has to be summed.
  linear(weights, x, hold = null) {
    const out = (weights.out ??= new Float64Array(weights.matrix.shape[0])), base = hold && this.base(weights, hold);
    if (base) out.set(base);
    else out.fill(0);
    if (!base && weights.bias) out.set(weights.bias.values);
    spread(weights.matrix, x, out, hold && hold.fill);
    return out;
  }

  // What comes out where every node of a site is at its fill; a site's hold goes into one matrix.
  base({ matrix, bias }, hold) {
    let found = this.bases.get(hold);
    if (!found) {
      this.bases.set(hold, found = new Float64Array(matrix.shape[0]));
      if (bias) found.set(bias.values);
      spread(matrix, hold.fill, found);
    }
    return found;
  }

  // The neurons, in place; those that have what they would have with all inputs held are known.
  activated(hidden, hold) {
    const kind = this.config.activation_type, base = hold && this.bases.get(hold);
    if (base && !this.actives.has(hold)) this.actives.set(hold, base.map(x => activate(kind, x)));
    const known = base && this.actives.get(hold);
    for (let h = 0; h < hidden.length; h++) hidden[h] = base && hidden[h] === base[h] ? known[h] : activate(kind, hidden[h]);
  }

  // Removed edges carry the source's mean.
  cut(run, name, x, out, first, mean) {
    const edges = run.cut && run.cut.get(name);
    if (!edges) return;
    const means = run.means.get(mean);
    for (const [source, target, weight] of edges) out[first + target] -= weight * (x[source] - means[source]);
  }

  attention(layer, i, a, cache, run) {
    const { sites, edges } = layer, width = this.config.n_head * this.config.d_head, qkv = this.linear(layer.cAttn, a, run.hold && run.hold.get(sites.attnIn));
    const [q, k, v] = ["q", "k", "v"].map((kind, part) => {
      this.cut(run, edges[kind], a, qkv, part * width, sites.attnIn);
      return this.site(sites[kind], `attn_${kind}`, qkv.subarray(part * width, (part + 1) * width), run);
    });
    cache.keys[i].push(k);
    cache.values[i].push(v);
    const y = this.attended(q, cache.keys[i], cache.values[i], layer.sink, run.record, i), out = this.linear(layer.attnProj, y);
    this.cut(run, edges.attnOut, y, out, 0, sites.y);
    return this.site(sites.attnOut, "attn_out", out, run);
  }

  attended(q, keys, values, sinks, record, layer) {
    const { n_head: heads, d_head: size } = this.config, seen = keys.length, scale = 1 / Math.sqrt(size), y = this.fresh(heads * size), scores = this.fresh(heads * seen);
    for (let h = 0; h < heads; h++) {
      const first = h * size, own = h * seen;
      let largest = sinks ? sinks[h] : -Infinity, total = 0;
      for (let t = 0; t < seen; t++) {
        const key = keys[t];
        let sum = 0;
        for (let c = first; c < first + size; c++) sum += q[c] * key[c];
        scores[own + t] = scale * sum;
        if (scale * sum > largest) largest = scale * sum;
      }
      if (sinks) total = Math.exp(sinks[h] - largest);
      for (let t = 0; t < seen; t++) total += scores[own + t] = Math.exp(scores[own + t] - largest);
      for (let t = 0; t < seen; t++) {
        const share = scores[own + t] /= total, value = values[t];
        for (let c = first; c < first + size; c++) y[c] += share * value[c];
      }
    }
    if (record && record.attention) record.attention[layer] = Array.from({ length: heads }, (_, h) => scores.subarray(h * seen, (h + 1) * seen));
    return y;
  }

  logits(x, id) {
    const head = this.tensor("lm_head.weight"), out = new Float64Array(this.config.vocab_size), bias = this.tensor("final_logits_bias");
    spread(head, x, out);
    for (let t = 0; t < out.length; t++) out[t] += (bias ? bias.values[t] : 0) + (this.table ? this.table.values[id * out.length + t] : 0);
    return out;
  }
}

// out += matrix (x - from), over the nonzeros of both.
function spread({ starts, rows, weights }, x, out, from = null) {
  for (let c = 0; c < x.length; c++) {
    const value = from === null ? x[c] : x[c] - from[c];
    if (value !== 0) for (let n = starts[c], end = starts[c + 1]; n < end; n++) out[rows[n]] += weights[n] * value;
  }
}

function activate(kind, x) {
  if (kind === "gelu") return 0.5 * x * (1 + erf(x / Math.SQRT2));
  if (kind === "gelu_tanh") return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  return kind === "relu" ? Math.max(x, 0) : x;
}

// To 1e-15, by Taylor's series around the nearest of points that are 1/512 apart; their values by the power series, their derivatives by Hermite's polynomials.
const STEP = 512, ORDER = 5, FURTHEST = 6;
let taylor = null;

function erf(x) {
  const size = Math.abs(x);
  if (!(size < FURTHEST)) return size >= FURTHEST ? Math.sign(x) : NaN;
  taylor ??= taylorOfErf();
  const point = (size * STEP + 0.5) | 0, by = size - point / STEP, first = point * ORDER;
  let sum = 0;
  for (let n = ORDER - 1; n >= 0; n--) sum = sum * by + taylor[first + n];
  return x < 0 ? -sum : sum;
}

function taylorOfErf() {
  const table = new Float64Array((FURTHEST * STEP + 1) * ORDER);
  for (let point = 0; point <= FURTHEST * STEP; point++) {
    const x = point / STEP, slope = 2 / Math.sqrt(Math.PI) * Math.exp(-x * x);
    table[point * ORDER] = erfAt(x);
    let before = 0, now = 1, factorial = 1; // Hermite's polynomials, of n - 2 and n - 1
    for (let n = 1; n < ORDER; n++) {
      factorial *= n;
      table[point * ORDER + n] = (n % 2 ? 1 : -1) * now * slope / factorial;
      [before, now] = [now, 2 * x * now - 2 * (n - 1) * before];
    }
  }
  return table;
}

// The power series near 0, the continued fraction of erfc elsewhere.
function erfAt(x) {
  if (x < 2) {
    let term = x, sum = x;
    for (let n = 1; term !== 0 && Math.abs(term) > 1e-18 * sum; n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return sum * 2 / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 120; n > 0; n--) fraction = n / 2 / (x + fraction);
  return 1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}

// By their first 16 bits but the sign sizes fall into buckets, 16 to an octave: of those above the bucket of the k-th largest all are kept, below it none.
// The arrays are kept, since making them would take longer than what is done with them.
const BUCKETS = 1 << 15, histogram = new Int32Array(BUCKETS), word = new Float64Array(1), halves = new Uint32Array(word.buffer);
let buckets = new Uint16Array(0);

// The k entries of largest size go into out, ties to the lower index; the others of out stay zero.
function absTopK(x, k, out) {
  const n = x.length;
  if (k >= n) out.set(x);
  if (k <= 0 || k >= n) return out;
  if (buckets.length < n) buckets = new Uint16Array(n);
  let top = 0;
  for (let i = 0; i < n; i++) {
    word[0] = x[i];
    const bucket = (halves[1] & 0x7fffffff) >>> 16;
    buckets[i] = bucket;
    histogram[bucket]++;
    if (bucket > top) top = bucket;
  }
  let least = top, room = k;
  while (room > histogram[least]) room -= histogram[least--];
  const tied = [];
  for (let i = 0; i < n; i++) {
    const bucket = buckets[i];
    histogram[bucket] = 0;
    if (bucket > least) out[i] = x[i];
    else if (bucket === least) tied.push(i);
  }
  if (tied.length > room) tied.sort((i, j) => Math.abs(x[j]) - Math.abs(x[i]) || i - j).length = room;
  for (const i of tied) out[i] = x[i];
  return out;
}

// A prompt through the model, or through a circuit of it; scales: of every token what norms multiply with, or null: each its own; frozen: those that the
// whole model has on the same prompt; last: logits of the last token alone.
function runPrompt(model, ids, run = {}, { scales = null, frozen = false, record = true, last = false } = {}) {
  const used = frozen ? runPrompt(model, ids).steps.map(step => step.scales) : scales, cache = model.begin(), steps = [];
  ids.forEach((id, t) => {
    const seen = record ? { sites: new Map(), scales: [], attention: [] } : null;
    const logits = model.step(cache, id, { ...run, scales: used ? used[t] : null, record: seen, quiet: last && t < ids.length - 1 });
    steps.push({ logits, sites: seen && seen.sites, scales: seen && seen.scales, attention: seen && seen.attention });
  });
  return { cache, steps, logits: steps.length ? steps[steps.length - 1].logits : null };
}
