// The model itself, token by token: embedding, norms, AbsTopK, attention with its sink, MLP, bigram table; nodes and edges switched off or held.
// Held to PyTorch in float64 by tests/viewer/test_runtime.py; sums and activations are doubles, weights as stored.

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
    return new { f32: Float32Array, u8: Uint8Array, i16: Int16Array, u16: Uint16Array, u32: Uint32Array }[kind](buffer, first, count);
  };
  if (part.kind === "grid") return { shape: part.shape, values: gridOf(part, view) };
  if (part.kind === "dense") return { shape: part.shape, values: view(part.type, part.values) };
  return { // a matrix by its columns: for each input the outputs that it goes to
    shape: part.shape, starts: view("u32", part.starts), rows: view(part.index, part.rows), weights: view(part.type, part.weights),
  };
}

// A table in eighths: a number for each row, one for each column, and the rest by columns.
function gridOf(part, view) {
  const [height, width] = part.shape, values = new Float32Array(height * width);
  const rows = view("i16", part.rows), columns = view("i16", part.columns), low = view("u8", part.low), high = view("u8", part.high);
  for (let j = 0, n = 0; j < width; j++) {
    for (let i = 0; i < height; i++, n++) values[i * width + j] = (rows[i] + columns[j] + ((low[n] | (high[n] << 8)) << 16 >> 16)) / 8;
  }
  return values;
}

class Model {
  constructor(config, tensors) {
    this.config = config;
    this.tensors = tensors;
    this.layers = Array.from({ length: config.n_layer }, (_, i) => this.layer(i));
    this.table = tensors.get("bigram_table.logit_bias") || null;
  }

  tensor(name) {
    return this.tensors.get(name) || null;
  }

  layer(i) {
    const at = `transformer.h.${i}.`, part = name => this.tensor(at + name);
    const linear = name => ({ matrix: part(`${name}.weight`), bias: part(`${name}.bias`) });
    const norm = name => (part(`${name}.weight`) ? { weight: part(`${name}.weight`).values, bias: part(`${name}.bias`) && part(`${name}.bias`).values } : null);
    return {
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
    let n = 0;
    this.layers.forEach((layer, i) => {
      const reads = this.withPositions(norm(x, layer.attnNorm, n++), layer.attnPosNorm, positions);
      const a = this.site(`${i}.attn.act_in`, "attn_in", reads, run);
      const delta = this.attention(layer, i, a, cache, run);
      x = this.residual(x, delta, "resid_post_attn");
      const m = this.site(`${i}.mlp.act_in`, "mlp_in", this.withPositions(norm(x, layer.mlpNorm, n++), layer.mlpPosNorm, positions), run);
      const hidden = this.linear(layer.cFc, m);
      this.cut(run, `${i}.mlp.act_in->${i}.mlp.post_act`, m, hidden, 0, `${i}.mlp.act_in`);
      for (let h = 0; h < hidden.length; h++) hidden[h] = activate(config.activation_type, hidden[h]);
      const neurons = this.site(`${i}.mlp.post_act`, "mlp_neuron", hidden, run);
      const out = this.linear(layer.mlpProj, neurons);
      this.cut(run, `${i}.mlp.post_act->${i}.mlp.resid_delta`, neurons, out, 0, `${i}.mlp.post_act`);
      x = this.residual(x, this.site(`${i}.mlp.resid_delta`, "mlp_out", out, run), "resid_post_mlp");
    });
    x = this.site("final_resid", null, x, run);
    if (run.quiet) return null;
    return this.logits(norm(x, { weight: this.tensor("transformer.final_norm.weight").values, bias: this.valuesOf("transformer.final_norm.bias") }, n), id);
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
    const out = new Float64Array(x.length), { weight, bias } = weights;
    for (let c = 0; c < x.length; c++) out[c] = (x[c] - mean) * used * weight[c] + (bias ? bias[c] : 0);
    return out;
  }

  withPositions(x, weights, positions) {
    if (!weights || !positions) return x;
    const more = this.norm(positions, weights, null, null), wide = new Float64Array(x.length + more.length);
    wide.set(x);
    wide.set(more, x.length);
    return wide;
  }

  // AbsTopK, then what the run holds; what comes out is the nodes' activation.
  site(name, location, x, run) {
    const share = location === null ? undefined : this.config.afrac[location];
    let out = share === undefined ? x : absTopK(x, Math.trunc(share * x.length));
    const hold = run.hold && run.hold.get(name), held = run.held && run.held.get(name);
    if ((hold || held) && out === x) out = x.slice();
    if (hold) for (let i = 0; i < out.length; i++) if (!hold.open[i]) out[i] = hold.fill[i];
    if (held) for (const [node, value] of held) out[node] = value;
    if (run.record) run.record.sites.set(name, out.slice());
    return out;
  }

  residual(x, delta, location) {
    const sum = new Float64Array(x.length), kind = this.config.residual_activation_type;
    for (let c = 0; c < x.length; c++) sum[c] = activate(kind, x[c] + delta[c]);
    const share = this.config.afrac[location];
    return share === undefined ? sum : absTopK(sum, Math.trunc(share * sum.length));
  }

  linear({ matrix, bias }, x) {
    const out = new Float64Array(matrix.shape[0]);
    if (bias) out.set(bias.values);
    spread(matrix, x, out);
    return out;
  }

  // Removed edges carry the source's mean.
  cut(run, name, x, out, first, mean) {
    const edges = run.cut && run.cut.get(name);
    if (!edges) return;
    const means = run.means.get(mean);
    for (const [source, target, weight] of edges) out[first + target] -= weight * (x[source] - means[source]);
  }

  attention(layer, i, a, cache, run) {
    const { n_head: heads, d_head: size } = this.config, width = heads * size, qkv = this.linear(layer.cAttn, a), from = `${i}.attn.act_in`;
    ["q", "k", "v"].forEach((kind, part) => this.cut(run, `${from}->${i}.attn.${kind}`, a, qkv, part * width, from));
    const [q, k, v] = ["q", "k", "v"].map((kind, part) => this.site(`${i}.attn.${kind}`, `attn_${kind}`, qkv.slice(part * width, (part + 1) * width), run));
    cache.keys[i].push(k);
    cache.values[i].push(v);
    const y = attended(q, cache.keys[i], cache.values[i], heads, size, layer.sink, run.record, i);
    const out = this.linear(layer.attnProj, y);
    this.cut(run, `${i}.attn.v->${i}.attn.resid_delta`, y, out, 0, `${i}.attn.y`);
    return this.site(`${i}.attn.resid_delta`, "attn_out", out, run);
  }

  logits(x, id) {
    const head = this.tensor("lm_head.weight"), out = new Float64Array(this.config.vocab_size), bias = this.tensor("final_logits_bias");
    spread(head, x, out);
    for (let t = 0; t < out.length; t++) out[t] += (bias ? bias.values[t] : 0) + (this.table ? this.table.values[id * out.length + t] : 0);
    return out;
  }
}

// out += matrix x, over the nonzeros of both.
function spread({ starts, rows, weights }, x, out) {
  for (let c = 0; c < x.length; c++) {
    const value = x[c];
    if (value !== 0) for (let n = starts[c], end = starts[c + 1]; n < end; n++) out[rows[n]] += weights[n] * value;
  }
}

function activate(kind, x) {
  if (kind === "gelu") return 0.5 * x * (1 + erf(x / Math.SQRT2));
  return kind === "relu" ? Math.max(x, 0) : x;
}

// To 1e-15, by Taylor's series around the nearest of points that are 1/64 apart; their values by the power series, their derivatives by Hermite's polynomials.
const STEP = 64, ORDER = 8, FURTHEST = 6;
let taylor = null;

function erf(x) {
  const size = Math.abs(x);
  if (!(size < FURTHEST)) return size >= FURTHEST ? Math.sign(x) : NaN;
  taylor ??= taylorOfErf();
  const point = Math.round(size * STEP), by = size - point / STEP, first = point * ORDER;
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

// What stands at a place once the first so many numbers are in ascending order; they are moved about.
function placed(numbers, count, place) {
  let low = 0, high = count - 1;
  while (low < high) {
    const pivot = numbers[(low + high) >> 1];
    let i = low, j = high;
    while (i <= j) {
      while (numbers[i] < pivot) i++;
      while (numbers[j] > pivot) j--;
      if (i <= j) {
        const one = numbers[i];
        numbers[i++] = numbers[j];
        numbers[j--] = one;
      }
    }
    if (place <= j) high = j;
    else if (place >= i) low = i;
    else break;
  }
  return numbers[place];
}

// By the first 16 bits numbers fall into buckets, those of the largest first; what is smaller by 2^31 and more into the last. The arrays are kept, since
// making them would take longer than what is done with them.
const BUCKETS = 1024, histogram = new Int32Array(BUCKETS);
let sizes = new Float64Array(0), words = null, buckets = null, tied = null;

// The size of the k-th largest entry of x.
function leastKept(x, k) {
  const n = x.length;
  if (sizes.length < n) {
    sizes = new Float64Array(n);
    words = new Uint32Array(sizes.buffer);
    buckets = new Int32Array(n);
    tied = new Float64Array(n);
  }
  let top = 0, bucket = 0, before = 0, m = 0;
  for (let i = 0; i < n; i++) {
    sizes[i] = Math.abs(x[i]);
    buckets[i] = words[2 * i + 1] >>> 15;
    if (buckets[i] > top) top = buckets[i];
  }
  histogram.fill(0);
  for (let i = 0; i < n; i++) histogram[buckets[i] = Math.min(top - buckets[i], BUCKETS - 1)]++;
  while (before + histogram[bucket] < k) before += histogram[bucket++];
  for (let i = 0; i < n; i++) if (buckets[i] === bucket) tied[m++] = sizes[i];
  return placed(tied, m, m - (k - before));
}

// The k entries of largest size, ties to the lower index, others zero.
function absTopK(x, k) {
  if (k >= x.length) return x;
  const out = new Float64Array(x.length);
  if (k <= 0) return out;
  const least = leastKept(x, k);
  let room = k;
  for (let i = 0; i < x.length; i++) if (Math.abs(x[i]) > least) { out[i] = x[i]; room--; }
  for (let i = 0; i < x.length && room > 0; i++) if (Math.abs(x[i]) === least) { out[i] = x[i]; room--; }
  return out;
}

function attended(q, keys, values, heads, size, sinks, record, layer) {
  const y = new Float64Array(heads * size), seen = keys.length, scale = 1 / Math.sqrt(size), patterns = [];
  for (let h = 0; h < heads; h++) {
    const scores = new Float64Array(seen), first = h * size;
    let largest = sinks ? sinks[h] : -Infinity;
    for (let t = 0; t < seen; t++) {
      let sum = 0;
      for (let c = first; c < first + size; c++) if (q[c] !== 0) sum += q[c] * keys[t][c];
      scores[t] = scale * sum;
      largest = Math.max(largest, scores[t]);
    }
    let total = sinks ? Math.exp(sinks[h] - largest) : 0;
    for (let t = 0; t < seen; t++) total += scores[t] = Math.exp(scores[t] - largest);
    for (let t = 0; t < seen; t++) {
      const weight = scores[t] /= total;
      for (let c = first; c < first + size; c++) y[c] += weight * values[t][c];
    }
    patterns.push(scores);
  }
  if (record && record.attention) record.attention[layer] = patterns;
  return y;
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
