// The latent space: codes in a plane, and the decoding of a point in it as it moves.
"use strict";

const { classes, count, held, names, planes, sliders, span } = MODEL;
const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
const GREY = "#888888";
const NAMED = 40;  // maximum number of classes for a legend
const colourOf = (one) => (names.length <= COLOURS.length ? COLOURS[one] : `hsl(${(360 * one) / names.length} 65% 45%)`);
const decimals = (value) => (Math.round(100 * value) / 100 + 0).toFixed(2);  // 0.00, never -0.00

/** Draws an image on a canvas; one channel as dark on white, as in the figures. */
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

/** The coordinates of z in a linear plane. */
function coordinates({ directions, origin }, z) {
  return directions.map((u) => u.reduce((sum, u_d, d) => sum + u_d * (z[d] - origin[d]), 0));
}

function explore({ mu, sigma, points, pixels }) {
  const canvas = element("plane"), code = (i) => mu.subarray(i * latentDim, (i + 1) * latentDim);
  let plane, dots;  // positions of the images
  let z = new Float32Array(MODEL.centre), point;  // position of z
  let label = 0;  // class that a conditional model decodes
  let source = -1, chosen = -1, pressed = -1, hovered = -1;  // image whose code z is; selected image; classes
  const toPixel = (value, axis) => ((axis === 0 ? value : -value) / plane.span / 2 + 0.5) * canvas.width;
  const toValue = (share, axis) => (axis === 0 ? share - 0.5 : 0.5 - share) * 2 * plane.span;
  const located = () => (plane.points ? dots[source] ?? [0, 0] : coordinates(plane, z));

  function project(number) {
    const at = points[number];
    plane = planes[number];
    dots = Array.from({ length: count }, (_, i) => (at ? [at[2 * i], at[2 * i + 1]] : coordinates(plane, code(i))));
    point = located();
    element("across").textContent = plane.labels[0] ? `${plane.labels[0]} →` : "";
    element("up").textContent = plane.labels[1] ? `↑ ${plane.labels[1]}` : "";
    if (planes.length > 1) element("note").textContent = plane.note;
    for (const d of sliders) element(`z${d}`).parentElement.hidden = plane.axes.includes(`z[${d}]`);
    show();
  }

  function paint() {
    const side = canvas.clientWidth * devicePixelRatio, style = getComputedStyle(document.body);
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"), unit = side / 500, alone = hovered < 0 ? pressed : hovered;
    const disc = ([x, y = 0], radius) => {
      context.beginPath();
      context.arc(toPixel(x, 0), toPixel(y, 1), radius * unit, 0, 7);
    };
    context.strokeStyle = style.getPropertyValue("--line");
    if (!plane.points) {
      context.beginPath();
      context.moveTo(0, toPixel(0, 1));
      context.lineTo(side, toPixel(0, 1));
      context.moveTo(toPixel(0, 0), 0);
      context.lineTo(toPixel(0, 0), side);
      context.stroke();
    }
    dots.forEach((dot, i) => {
      const large = i === chosen || (plane.points && i === source);
      context.fillStyle = classes ? colourOf(classes[i]) : GREY;
      context.globalAlpha = large ? 1 : alone < 0 || classes[i] === alone ? 0.65 : 0.05;
      disc(dot, large ? 7 : held === count ? 2.6 : i < held ? 4 : 1.6);
      context.fill();
    });
    if (plane.points && source < 0) return;  // z is not in the plane
    context.globalAlpha = 1;
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = 2 * unit;
    disc(point, 8);
    context.stroke();
  }

  function show() {
    draw(element("decoded"), decode(z, label));
    element("where").textContent = plane.points
      ? source < 0 ? "z is no image's code: not in this plane" : `z = μ of test image ${source}`
      : plane.axes.map((name, axis) => `${name} = ${decimals(point[axis])}`).join(", ");
    for (const d of sliders) {
      element(`z${d}`).value = z[d];
      element(`z${d}`).nextElementSibling.textContent = decimals(z[d]);
    }
    paint();
    if (chosen >= 0) paintPosterior();
  }

  /** Decodes the class of a test image from here on. */
  function decodeClassOf(i) {
    if (MODEL.is_conditional) label = element("class").value = classes[i];
  }

  /** Moves the point, and z with it: along the plane's directions, or to the nearest image's code. */
  function moveTo(target) {
    point = dots[0].map((_, axis) => Math.min(plane.span, Math.max(-plane.span, target[axis])));
    if (plane.points) {
      const found = nearest(count);
      if (found < 0) return;  // the page has no image of the class that is shown alone
      source = found;
      z = code(found).slice();
      decodeClassOf(found);
    } else {
      const before = coordinates(plane, z);
      plane.directions.forEach((u, axis) => u.forEach((u_d, d) => (z[d] += (point[axis] - before[axis]) * u_d)));
      source = -1;
    }
    show();
  }

  /** Moves z, and the point with it. */
  function become(values) {
    z = values;
    source = -1;
    if (!plane.points) point = coordinates(plane, z);
    show();
  }

  /** Returns the nearest image to the point, among the first ones. */
  function nearest(among) {
    let best = -1, least = Infinity;
    for (let i = 0; i < among; i++) {
      if (pressed >= 0 && classes[i] !== pressed) continue;
      const distance = dots[i].reduce((sum, value, axis) => sum + (value - point[axis]) ** 2, 0);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  /** Draws the selected image's posterior: a bar per dimension, from mu - sigma to mu + sigma. */
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

  /** Shows a test image with its posterior, reconstruction and ELBO terms. z becomes its mu. */
  function choose(i) {
    if (i < 0) return;  // as above
    source = chosen = i;
    z = code(i).slice();
    decodeClassOf(i);
    point = located();
    element("hint").hidden = true;
    element("pair").hidden = element("chosen").hidden = false;
    const area = channels * height * width;
    draw(element("image"), Float32Array.from(pixels.subarray(i * area, (i + 1) * area), (v) => v / 255));
    draw(element("reconstruction"), decode(z, label));
    const [distortion, rate] = MODEL.terms[i];
    element("terms").textContent = `Test image ${i}${classes ? `, class ${names[classes[i]]}` : ""}: ` + (MODEL.is_deterministic
      ? `distortion ${distortion.toFixed(1)} nats`
      : `ELBO ${(-distortion - rate).toFixed(1)} = −(distortion ${distortion.toFixed(1)} + rate ${rate.toFixed(1)}) nats`);
    show();
  }

  function pointed(event) {
    const box = canvas.getBoundingClientRect();
    return [toValue((event.clientX - box.left) / box.width, 0), toValue((event.clientY - box.top) / box.height, 1)];
  }
  for (const kind of ["pointerdown", "pointermove"])
    canvas.addEventListener(kind, (event) => {
      element("where").removeAttribute("aria-live");
      moveTo(pointed(event));
    });
  const bringIntoSight = () => element("stage").scrollIntoView({ block: "nearest" });
  canvas.addEventListener("click", (event) => { moveTo(pointed(event)); choose(nearest(held)); bringIntoSight(); });
  canvas.addEventListener("keydown", (event) => {
    const step = (event.shiftKey ? 0.02 : 0.1) * plane.span, [x, y = 0] = point;
    const to = { ArrowLeft: [x - step, y], ArrowRight: [x + step, y], ArrowUp: [x, y + step], ArrowDown: [x, y - step] }[event.key];
    // Announced to screen readers only when the point moves in steps: pointer movement would cause endless announcements.
    element("where").setAttribute("aria-live", "polite");
    if (to) moveTo(to);
    else if (event.key === "Enter") choose(nearest(held));
    else return;
    bringIntoSight();
    event.preventDefault();
  });
  for (const radio of document.getElementsByName("projection"))
    radio.addEventListener("change", () => project(Number(radio.value)));
  for (const d of sliders)
    element(`z${d}`).addEventListener("input", (event) => become(z.with(d, Number(event.target.value))));
  element("class")?.addEventListener("change", (event) => { label = Number(event.target.value); show(); });
  element("origin").addEventListener("click", () => become(new Float32Array(MODEL.centre)));
  addEventListener("resize", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  if (names.length > NAMED) element("legend").textContent = `${names.length} classes, each in a colour; click a dot for its name`;
  else names.forEach((name, one) => {
    // Colours may look alike, to some readers or with many classes: a class can be shown alone.
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
  project(Number(document.querySelector("#projections :checked")?.value ?? 0));  // some browsers restore the selection
  document.body.dataset.ready = "yes";
}

unpack().then(explore, (error) => {
  element("where").textContent = `This browser can't unpack the model (${error}); the figures below need no script.`;
});
