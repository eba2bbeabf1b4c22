// Reads golden/rms_norm.json as golden/README.md says and judges this file's own rms_norm: node rms_norm.mjs FOLDER
import { readFileSync } from "node:fs";
const PHI = 0x9e3779b97f4a7c15n, u64 = (z) => BigInt.asUintN(64, z);
const mix = (z) => {
  z = u64((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n), (z = u64((z ^ (z >> 27n)) * 0x94d049bb133111ebn));
  return z ^ (z >> 31n);
};
const word = (seed, k) => mix(u64(mix(u64(BigInt(seed) + PHI)) + BigInt(k + 1) * PHI));
function normal(seed, i) {
  let sum = -6n * 65535n;
  for (let j = 0; j < 3; j++) for (let f = 0n; f < 4n; f++) sum += (word(seed, 4 * i + j) >> (16n * f)) & 0xffffn;
  return Number(sum) / 65536;
}
const element = {
  normal, tiny: (s, i) => normal(s, i) / 16384, positive: (s, i) => Math.abs(normal(s, i)) + 1 / 65536,
  offset: (s, i) => normal(s, i) / 8 + 4, uniform: (s, i) => (2 * Number(word(s, 4 * i) >> 48n) - 65535) / 65536,
  heavy: (s, i) => normal(s, i) * 2 ** (Number(word(s, 4 * i + 3) >> 60n) - 8),
  alternating: (s, i, width) => Math.abs(normal(s, i)) * (i % width % 2 ? -1 : 1),
};
const spelt = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };
const numbers = (list) => list.map((x) => (x in spelt ? spelt[x] : x));
const size = (shape) => shape.reduce((a, b) => a * b, 1);
function build({ shape, recipe, set = [], values }) {
  if (!recipe) return numbers(values);
  const draw = element[recipe.structure], scale = recipe.scale ?? 1;
  const x = Array.from({ length: size(shape) }, (_, i) => draw(recipe.seed, i, shape.at(-1)) * scale);
  for (const [index, value] of set) {
    const rows = size(shape.slice(index.length)), first = rows * index.reduce((at, j, axis) => at * shape[axis] + j, 0);
    x.fill(numbers([value])[0], first, first + rows);
  }
  if (values && numbers(values).some((v, i) => v !== x[i])) throw new Error(`the recipe of seed ${recipe.seed} fails`);
  return x;
}
const folder = process.argv[2], { cases } = JSON.parse(readFileSync(`${folder}/rms_norm.json`));
function read(stored) { // a list of numbers, or the name of a float64 tensor in the safetensors file
  if (!stored.tensor) return numbers(Array.isArray(stored) ? stored : stored.values);
  const file = readFileSync(`${folder}/rms_norm.safetensors`), start = 8 + Number(file.readBigUInt64LE(0));
  const { shape, data_offsets: [begin] } = JSON.parse(file.subarray(8, start))[stored.tensor];
  return Array.from({ length: size(shape) }, (_, i) => file.readDoubleLE(start + begin + 8 * i));
}
const round = (x, bits, low) => { // to nearest, ties to even; bits of the significand, least exponent
  const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x) || 1)), low) + 1 - bits), q = x / unit, r = Math.round(q);
  return unit * (r - q === 0.5 && r % 2 ? r - 1 : r);
};
const bfloat16 = (x) => round(x, 8, -126), float16 = (x) => round(x, 11, -14);
const store = { float64: (x) => x, float32: Math.fround, bfloat16, float16 };
let compared = 0, wrong = 0;
for (const c of cases) for (const [profile, bounds] of Object.entries(c.bound)) {
  const [x, weight] = [c.inputs.x, c.inputs.weight].map((node) => build(node).map(store[profile])), d = weight.length;
  const expected = read((c.rounded?.[profile] ?? c.expected).y), bound = read(bounds.y);
  for (const i of x.keys()) {
    const square = x.slice(i - (i % d), i - (i % d) + d).reduce((sum, v) => sum + v * v, 0) / d;
    const y = store[profile](weight[i % d] * (x[i] / Math.sqrt(square + c.parameters.eps)));
    const good = Math.abs(y - expected[i]) <= bound[i] || Object.is(y, expected[i]); // the second for NaN and infinity
    if (!good) console.error(c.id, profile, i, y);
    compared++, (wrong += !good);
  }
}
console.log(`${compared} compared, ${wrong} outside their bound`);
process.exit(wrong || !compared ? 1 : 0);
