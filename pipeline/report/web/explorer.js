// The latent plane: a point of it is decoded here, by the decoder's own weights, as it moves.
"use strict";

// MODEL is the page's own description of the data block, put there by page.py.
const { axes, blob, channels, classes, count, height, latent_dim: latentDim, layers, likelihood, names, sliders, width } = MODEL;
const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
const GREY = "#888888";
const NAMED = 40; // classes, at most, that a legend has room for
const colourOf = (one) => (names.length <= COLOURS.length ? COLOURS[one] : `hsl(${(360 * one) / names.length} 65% 45%)`);
const element = (id) => document.getElementById(id);

/** Half-precision numbers as float32: sign, 5 bits of exponent, 10 of fraction. */
function halves(buffer, offset, length) {
  return Float32Array.from(new Uint16Array(buffer, offset, length), (h) => {
    const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
    return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
  });
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

/** A transposed convolution: each input pixel adds its kernel, times itself, to the output about it. */
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

/** E[x|z] of the decoder's output. */
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

/** z -> E[x|z], channels x height x width numbers. */
function decode(z) {
  return MEAN[likelihood](layers.reduce((x, layer) => APPLY[layer.kind](layer, x), Float32Array.from(z)));
}

/** One picture on a canvas; of one channel ink on white, as in the figures. */
function draw(canvas, image) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), data = context.createImageData(width, height), area = width * height;
  for (let p = 0; p < area; p++) {
    for (let c = 0; c < 3; c++) {
      const value = channels === 3 ? image[c * area + p] : 1 - image[p];
      data.data[4 * p + c] = 255 * Math.min(1, Math.max(0, value));
    }
    data.data[4 * p + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

async function unpack() {
  const bytes = Uint8Array.from(atob(element("data").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  for (const layer of layers)
    for (const name of ["weight", "bias"]) if (name in layer) layer[name] = halves(buffer, layer[name][0], layer[name][1]);
  const taken = (name) => halves(buffer, blob[name][0], blob[name][1]);
  return { mu: taken("mu"), sigma: taken("sigma"), pixels: new Uint8Array(buffer, blob.pixels[0], blob.pixels[1]) };
}

function explore({ mu, sigma, pixels }) {
  const plane = element("plane"), span = MODEL.span;
  let z = new Float32Array(MODEL.centre), chosen = -1, pressed = -1, hovered = -1;
  const along = (i, axis) => (axes[axis] === undefined ? 0 : mu[i * latentDim + axes[axis]]);
  const toPixel = (value, axis) => ((axis === 0 ? value : -value) / span / 2 + 0.5) * plane.width;
  const toValue = (share, axis) => (axis === 0 ? share - 0.5 : 0.5 - share) * 2 * span;

  function paint() {
    const side = plane.clientWidth * devicePixelRatio, style = getComputedStyle(document.body);
    plane.width = plane.height = side;
    const context = plane.getContext("2d"), unit = side / 500, alone = hovered < 0 ? pressed : hovered;
    context.strokeStyle = style.getPropertyValue("--line");
    for (const axis of [0, 1]) {
      context.beginPath();
      axis ? context.moveTo(0, toPixel(0, 1)) : context.moveTo(toPixel(0, 0), 0);
      axis ? context.lineTo(side, toPixel(0, 1)) : context.lineTo(toPixel(0, 0), side);
      context.stroke();
    }
    for (let i = 0; i < count; i++) {
      context.fillStyle = classes ? colourOf(classes[i]) : GREY;
      context.globalAlpha = i === chosen ? 1 : alone < 0 || classes[i] === alone ? 0.65 : 0.05;
      context.beginPath();
      context.arc(toPixel(along(i, 0), 0), toPixel(along(i, 1), 1), (i === chosen ? 7 : 2.6) * unit, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = 2 * unit;
    context.beginPath();
    context.arc(toPixel(z[axes[0]], 0), toPixel(axes[1] === undefined ? 0 : z[axes[1]], 1), 8 * unit, 0, 7);
    context.stroke();
  }

  function show() {
    draw(element("decoded"), decode(z));
    element("where").textContent = axes.map((d) => `z[${d}] = ${z[d].toFixed(2)}`).join(", ");
    for (const d of sliders) {
      element(`z${d}`).value = z[d];
      element(`z${d}`).nextElementSibling.textContent = z[d].toFixed(2);
    }
    paint();
    if (chosen >= 0) paintPosterior();
  }

  function moveTo(values) {
    axes.forEach((d, axis) => (z[d] = Math.min(span, Math.max(-span, values[axis]))));
    show();
  }

  function nearest() {
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (pressed >= 0 && classes[i] !== pressed) continue;
      const distance = axes.reduce((sum, d, axis) => sum + (along(i, axis) - z[d]) ** 2, 0);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  /** The chosen image's posterior: a bar per dimension, from mu - sigma to mu + sigma. */
  function paintPosterior() {
    const canvas = element("posterior"), context = canvas.getContext("2d"), style = getComputedStyle(document.body);
    [canvas.width, canvas.height] = [canvas.clientWidth * devicePixelRatio, canvas.clientHeight * devicePixelRatio];
    const step = canvas.width / latentDim, y = (value) => canvas.height * (0.5 - value / span / 2);
    context.fillStyle = style.getPropertyValue("--line");
    context.fillRect(0, y(0), canvas.width, 1);
    for (let d = 0; d < latentDim; d++) {
      const m = mu[chosen * latentDim + d], s = sigma[chosen * latentDim + d];
      context.fillStyle = style.getPropertyValue("--accent");
      context.globalAlpha = 0.4;
      context.fillRect((d + 0.2) * step, y(m + s), 0.6 * step, Math.max(1, y(m - s) - y(m + s)));
      context.globalAlpha = 1;
      context.fillRect((d + 0.2) * step, y(m) - 1, 0.6 * step, 3);
    }
  }

  /** A test image: its posterior, its reconstruction, and what it costs. z becomes its mu. */
  function choose(i) {
    if (i < 0) return; // of the class that is shown alone, the page has no image
    chosen = i;
    z = mu.slice(i * latentDim, (i + 1) * latentDim);
    element("hint").hidden = true;
    element("pair").hidden = element("chosen").hidden = false;
    draw(element("image"), Float32Array.from(pixels.subarray(i * channels * height * width, (i + 1) * channels * height * width), (v) => v / 255));
    draw(element("reconstruction"), decode(z));
    const [distortion, rate] = MODEL.terms[i], point = MODEL.is_deterministic;
    element("terms").textContent = `Test image ${i}${classes ? `, class ${names[classes[i]]}` : ""}: ` + (point
      ? `distortion ${distortion.toFixed(1)} nats`
      : `ELBO ${(-distortion - rate).toFixed(1)} = −(distortion ${distortion.toFixed(1)} + rate ${rate.toFixed(1)}) nats`);
    show();
  }

  function pointed(event) {
    const box = plane.getBoundingClientRect();
    return [toValue((event.clientX - box.left) / box.width, 0), toValue((event.clientY - box.top) / box.height, 1)];
  }
  for (const kind of ["pointerdown", "pointermove"])
    plane.addEventListener(kind, (event) => {
      element("where").removeAttribute("aria-live");
      moveTo(pointed(event));
    });
  const bringIntoSight = () => element("stage").scrollIntoView({ block: "nearest" });
  plane.addEventListener("click", (event) => { moveTo(pointed(event)); choose(nearest()); bringIntoSight(); });
  plane.addEventListener("keydown", (event) => {
    const step = (event.shiftKey ? 0.02 : 0.1) * span, x = z[axes[0]], y = axes[1] === undefined ? 0 : z[axes[1]];
    const to = { ArrowLeft: [x - step, y], ArrowRight: [x + step, y], ArrowUp: [x, y + step], ArrowDown: [x, y - step] }[event.key];
    // Spoken only where the point moves in steps: under a pointer it would never end.
    element("where").setAttribute("aria-live", "polite");
    if (to) moveTo(to);
    else if (event.key === "Enter") choose(nearest());
    else return;
    bringIntoSight();
    event.preventDefault();
  });
  for (const d of sliders)
    element(`z${d}`).addEventListener("input", (event) => { z[d] = Number(event.target.value); show(); });
  element("origin").addEventListener("click", () => { z = new Float32Array(MODEL.centre); show(); });
  addEventListener("resize", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  if (names.length > NAMED) element("legend").textContent = `${names.length} classes, each in a colour; click a dot for its name`;
  else names.forEach((name, one) => {
    // Colours look alike to some readers, and of many classes to all: a class can be shown alone.
    const button = element("legend").appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = button.title = name;
    button.style.setProperty("--colour", colourOf(one));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      pressed = pressed === one ? -1 : one;
      [...element("legend").children].forEach((other, i) => other.setAttribute("aria-pressed", String(i === pressed)));
      paint();
    });
    button.addEventListener("pointerenter", (event) => { hovered = event.pointerType === "mouse" ? one : -1; paint(); });
    button.addEventListener("pointerleave", () => { hovered = -1; paint(); });
  });
  show();
  document.body.dataset.ready = "yes";
}

unpack().then(explore, (error) => {
  element("where").textContent = `This browser can't unpack the model (${error}); the figures below need no script.`;
});
