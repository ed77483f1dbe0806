// Draws the points of FRONT = {points, chosen}, shows the one under the pointer or the keyboard, copies its command.
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [860, 420, 64, 24, 20, 48];
const REACH = 40; // greatest distance from the pointer to a point, in the picture's units
const { points, chosen } = FRONT;
const front = document.getElementById("front");
const rows = [...document.querySelectorAll("#points tr")].slice(1);
let shown = chosen;

function draw(parent, name, attributes, text) {
  const element = parent.appendChild(document.createElementNS(SVG, name));
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function rangeOf(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const margin = (most - least || Math.abs(most) || 1) * 0.05;
  return [least - margin, most + margin];
}

function ticks([from, to]) {
  const rough = (to - from) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const found = [];
  for (let at = Math.ceil(from / step); at * step <= to; at++) found.push([at * step, (at * step).toFixed(digits)]);
  return found;
}

const times = rangeOf(points.map((point) => point.time));
const errors = rangeOf(points.map((point) => 100 * point.error));
const x = (time) => LEFT + ((time - times[0]) / (times[1] - times[0])) * (WIDTH - LEFT - RIGHT);
const y = (error) => HEIGHT - BOTTOM - ((error - errors[0]) / (errors[1] - errors[0])) * (HEIGHT - TOP - BOTTOM);
const place = (point) => [x(point.time), y(100 * point.error)];

function drawAxes() {
  for (const [value, label] of ticks(times)) {
    draw(front, "line", { class: "axis", x1: x(value), x2: x(value), y1: TOP, y2: HEIGHT - BOTTOM });
    draw(front, "text", { x: x(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, label);
  }
  for (const [value, label] of ticks(errors)) {
    draw(front, "line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) });
    draw(front, "text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, label);
  }
  const across = (LEFT + WIDTH - RIGHT) / 2;
  const label = "normalised time (0: all at exit 1, 1: all at exit 2)";
  draw(front, "text", { x: across, y: HEIGHT - 10, "text-anchor": "middle" }, label);
  const turned = `rotate(-90 16 ${HEIGHT / 2})`;
  draw(front, "text", { x: 16, y: HEIGHT / 2, "text-anchor": "middle", transform: turned }, "error of accepted events, %");
}

function drawPoints() {
  draw(front, "polyline", { points: points.map((point) => place(point).join(",")).join(" ") });
  points.forEach((point, number) => {
    const [cx, cy] = place(point);
    if (point.name) {
      draw(front, "circle", { class: "named", cx, cy, r: 9 });
      const toTheLeft = cx > WIDTH - 160;
      draw(front, "text", { x: cx + (toTheLeft ? -13 : 13), y: cy - 8, "text-anchor": toTheLeft ? "end" : "start" }, point.name);
    }
    const group = draw(front, "g", { class: "point", tabindex: number === chosen ? 0 : -1, role: "button" });
    group.setAttribute("aria-label", `point ${point.label}, error ${(100 * point.error).toFixed(2)} %, time ${point.time.toFixed(4)}`);
    draw(group, "circle", { cx, cy, r: 4 });
    group.addEventListener("focus", () => show(number));
  });
  const [cx, cy] = place(points[chosen]);
  const star = [...Array(10).keys()].map((corner) => {
    const [radius, angle] = [corner % 2 ? 4 : 10, (corner * Math.PI) / 5];
    return `${cx + radius * Math.sin(angle)},${cy - radius * Math.cos(angle)}`;
  });
  draw(front, "polygon", { class: "chosen", points: star.join(" ") });
}

function sentence(point) {
  const percent = (share) => `${(100 * share).toFixed(2)} %`;
  const known = "acceptance" in point;
  const more = known ? `, acceptance ${percent(point.acceptance)}, offloaded ${percent(point.offloaded)}` : "";
  return `Point ${point.label}${point.name && point.name !== point.label ? ` (${point.name})` : ""}: error ${percent(point.error)}, time ${point.time.toFixed(4)}${more}.`;
}

function show(number) {
  const point = points[number];
  shown = number;
  const reading = document.getElementById("reading");
  reading.replaceChildren();
  reading.append(Object.assign(document.createElement("p"), { textContent: sentence(point) }));
  const thresholds = `Thresholds: exit 1 normal ${point.n_1}, attack ${point.a_1}; exit 2 normal ${point.n_2}, attack ${point.a_2}.`;
  reading.append(Object.assign(document.createElement("p"), { textContent: thresholds }));
  const words = point.command.split(" ").map((word) => Object.assign(document.createElement("span"), { textContent: word }));
  document.getElementById("command").replaceChildren(...words.flatMap((word, at) => (at ? [" ", word] : [word])));
  const groups = front.querySelectorAll(".point");
  groups.forEach((group, at) => group.classList.toggle("shown", at === number));
  groups.forEach((group, at) => group.setAttribute("tabindex", at === number ? 0 : -1));
  rows.forEach((row, at) => row.classList.toggle("shown", at === number));
}

async function copy(number) {
  show(number);
  const said = document.getElementById("said");
  try {
    await navigator.clipboard.writeText(points[number].command);
    said.textContent = `The command of point ${points[number].label} is copied.`;
  } catch {
    // The browser does not let the page write to the clipboard, so the command is selected, to be copied by hand.
    getSelection().selectAllChildren(document.getElementById("command"));
    said.textContent = `The command of point ${points[number].label} is selected; copy it with Ctrl+C.`;
  }
}

// Returns the number of the point nearest to the pointer; undefined if no point is within REACH.
function nearest(event) {
  const box = front.getBoundingClientRect();
  const [px, py] = [((event.clientX - box.left) * WIDTH) / box.width, ((event.clientY - box.top) * HEIGHT) / box.height];
  const distances = points.map((point) => Math.hypot(place(point)[0] - px, place(point)[1] - py));
  const least = Math.min(...distances);
  return least < REACH ? distances.indexOf(least) : undefined;
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
front.addEventListener("pointermove", (event) => {
  const number = nearest(event);
  if (number !== undefined && number !== shown) show(number);
});
front.addEventListener("click", (event) => {
  const number = nearest(event);
  if (number !== undefined) copy(number);
});
front.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") copy(shown);
  else if (event.key in STEPS) {
    const next = Math.min(Math.max(shown + STEPS[event.key], 0), points.length - 1);
    show(next); // because focus() sends no focus event in a window that is not active
    front.querySelectorAll(".point")[next].focus();
  } else return;
  event.preventDefault();
});
rows.forEach((row, number) => {
  row.addEventListener("mouseenter", () => show(number));
  row.addEventListener("click", () => copy(number));
});
drawAxes();
drawPoints();
show(chosen);
