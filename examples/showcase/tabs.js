// Sends many requests of one session at once, as many tabs would, and counts what arrived.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const form = document.getElementById("tabs");
const verdict = document.getElementById("verdict");
const lanes = document.getElementById("lanes");

const count = async () => Number(await (await fetch("/cart/count")).text());

/** Shows the cart as it is now, in place of the list that came with the page. */
async function refresh() {
  const page = new DOMParser().parseFromString(await (await fetch("/cart")).text(), "text/html");
  document.getElementById("list").replaceWith(document.adoptNode(page.getElementById("list")));
}

async function add() {
  const begin = performance.now();
  const body = new URLSearchParams({ item: "Umbrella" });
  const response = await fetch("/cart/tab", { method: "POST", body });
  await response.text();
  const operations = /desc="([^"]*)"/.exec(response.headers.get("server-timing") ?? "")?.[1] ?? "";
  return { ok: response.ok, operations, begin, end: performance.now() };
}

/** One lane for each request: when it ran, and what it asked of the cache. */
function draw(results) {
  const first = Math.min(...results.map((result) => result.begin));
  const span = Math.max(...results.map((result) => result.end)) - first;
  lanes.replaceChildren(...results.map((result) => {
    const lane = document.createElement("li");
    const line = document.createElementNS(SVG, "svg");
    const bar = document.createElementNS(SVG, "rect");
    bar.setAttribute("x", `${(100 * (result.begin - first)) / span}%`);
    bar.setAttribute("width", `${(100 * (result.end - result.begin)) / span}%`);
    bar.setAttribute("height", "10");
    bar.setAttribute("rx", "3");
    line.append(bar);
    const text = document.createElement("span");
    const tries = result.operations.split(" ").filter((name) => name === "replace").length;
    text.textContent = tries === 1 ? "written at once" : `written, try ${tries}`;
    lane.append(text, line);
    return lane;
  }));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  const tabs = Math.min(Math.max(form.elements.tabs.valueAsNumber || 1, 1), 200);
  button.disabled = true;
  verdict.className = "";
  verdict.textContent = `Sending ${tabs} …`;
  try {
    const before = await count();
    const start = performance.now();
    // Requests without a cookie would get a session each: the first one makes the session that the others share.
    const results = before === 0 ? [await add()] : [];
    results.push(...await Promise.all(Array.from({ length: tabs - results.length }, add)));
    const took = Math.round(performance.now() - start);
    const accepted = results.filter((result) => result.ok).length;
    const after = await count();
    const lost = before + accepted - after;
    await refresh();
    draw(results);
    verdict.className = lost === 0 && accepted === tabs ? "good" : "bad";
    verdict.textContent = `${accepted} of ${tabs} accepted in ${took} ms, ${after - before} arrived, ${lost} lost.`;
  } catch (error) {
    verdict.className = "bad";
    verdict.textContent = `That did not work: ${error}`;
  }
  button.disabled = false;
});

document.documentElement.classList.add("scripted");
