// The decoder in the browser: computes E[x|z] from z and the packed weights.
"use strict";

// MODEL is the description of the model and the data block, inserted by page.py.
const { blob, channels, height, latent_dim: latentDim, layers, likelihood, width } = MODEL;
const element = (id) => document.getElementById(id);

/** Converts half-precision numbers to float32: sign, 5 bits of exponent, 10 of fraction. */
function halves(buffer, offset, length) {
  return Float32Array.from(new Uint16Array(buffer, offset, length), (h) => {
    const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
    return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
  });
}

/** Converts levels k to weights: largest magnitude of the row * k |k| / MODEL.levels^2. */
function squares(buffer, [offset, length], most) {
  const levels = new Int8Array(buffer, offset, length), row = length / most.length;
  return Float32Array.from(levels, (k, i) => (most[Math.floor(i / row)] * k * Math.abs(k)) / MODEL.levels ** 2);
}

/** y = W x + b. */
function linear(layer, x) {
  const y = Float32Array.from(layer.bias);
  for (let row = 0, at = 0; row < y.length; row++) {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += layer.weight[at++] * x[i];
    y[row] += sum;
  }
  return y;
}

/** A transposed convolution: each input pixel adds its multiple of the kernel to the output around it. */
function convTranspose(layer, x) {
  const { inputs, outputs, kernel, stride, padding, size: [h, w], to: [H, W] } = layer;
  const y = new Float32Array(outputs * H * W);
  for (let o = 0; o < outputs; o++) y.fill(layer.bias[o], o * H * W, (o + 1) * H * W);
  for (let i = 0; i < inputs; i++)
    for (let r = 0; r < h; r++)
      for (let c = 0; c < w; c++) {
        const value = x[(i * h + r) * w + c];
        if (value === 0) continue;
        for (let o = 0; o < outputs; o++)
          for (let kr = 0; kr < kernel; kr++) {
            const R = r * stride - padding + kr;
            if (R < 0 || R >= H) continue;
            for (let kc = 0; kc < kernel; kc++) {
              const C = c * stride - padding + kc;
              if (C >= 0 && C < W) y[(o * H + R) * W + C] += value * layer.weight[((i * outputs + o) * kernel + kr) * kernel + kc];
            }
          }
      }
  return y;
}

const APPLY = {
  linear,
  conv_transpose: convTranspose,
  relu: (_, x) => x.map((v) => Math.max(0, v)),
  tanh: (_, x) => x.map(Math.tanh),
};

/** E[x|z] from the decoder's output. */
const MEAN = {
  bernoulli: (y) => y.map((v) => 1 / (1 + Math.exp(-v))),
  gaussian: (y) => y,
  categorical: (y) => {
    const pixels = channels * height * width, levels = y.length / pixels;
    return Float32Array.from({ length: pixels }, (_, p) => {
      let most = -Infinity, total = 0, mean = 0;
      for (let k = 0; k < levels; k++) most = Math.max(most, y[k * pixels + p]);
      for (let k = 0; k < levels; k++) {
        const share = Math.exp(y[k * pixels + p] - most);
        total += share;
        mean += (share * k) / (levels - 1);
      }
      return mean / total;
    });
  },
};

/** z -> E[x|z], channels x height x width numbers. A conditional model's decoder is given a class too, one-hot. */
function decode(z, label) {
  const given = MODEL.is_conditional ? [...z, ...MODEL.names.map((_, i) => Number(i === label))] : z;
  return MEAN[likelihood](layers.reduce((x, layer) => APPLY[layer.kind](layer, x), Float32Array.from(given)));
}

/** Reads the data block: assigns the weights to their layers, and returns the test images' data. */
async function unpack() {
  const bytes = Uint8Array.from(atob(element("data").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer(), numbers = (at) => halves(buffer, ...at);
  for (const layer of layers.filter((one) => "bias" in one)) {
    layer.weight = "weight" in layer ? numbers(layer.weight) : squares(buffer, layer.levels, numbers(layer.most));
    layer.bias = numbers(layer.bias);
  }
  const points = MODEL.planes.map((plane) => plane.points && numbers(plane.points));
  return { mu: numbers(blob.mu), sigma: numbers(blob.sigma), points, pixels: new Uint8Array(buffer, ...blob.pixels) };
}
