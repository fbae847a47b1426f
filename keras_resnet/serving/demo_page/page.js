// Sends each image to the server of this page, one at a time, and shows its answer. Names of files
// and classes are put in as text, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1 });
const count = new Intl.NumberFormat("en");
const about = fetch("export").then((response) => response.json());

let asked = 0, done = 0;
let last = Promise.resolve(); // of all images so far, which wait for one another

function copyOf(id) {
  return byId(id).content.cloneNode(true);
}

/** Adds a card for each file, and has them answered in turn. */
function add(files) {
  const batch = document.createElement("div");
  byId("answers").prepend(batch);
  for (const file of files) {
    batch.append(copyOf("card"));
    const card = batch.lastElementChild;
    card.querySelector(".file").textContent = file.name;
    asked += 1;
    last = last.then(() => show(card, file));
  }
  report();
}

function report() {
  byId("status").textContent = asked ? `${done} of ${asked} files done` : "";
}

/** Shows the answer for a file, or why it has none. */
async function show(card, file) {
  try {
    fill(card, file, await answerOf(file));
  } catch (error) {
    const message = card.querySelector(".message");
    message.textContent = `${file.name} ${error.message}`;
    message.className = "message error";
  }
  done += 1;
  report();
}

/** Returns the server's answer; the message of an error goes on after the name of the file. */
async function answerOf(file) {
  const limit = (await about.catch(() => ({}))).max_bytes;
  if (file.size > limit) {
    throw new Error(`has ${count.format(file.size)} bytes; give an image of ${count.format(limit)} at most`);
  }
  const image = await file.arrayBuffer().catch(() => {
    throw new Error("cannot be read; it may be a folder, or have changed");
  });
  const query = new URLSearchParams({ file: file.name });
  const headers = { "Content-Type": "application/octet-stream" };
  const response = await fetch(`answer?${query}`, { method: "POST", headers, body: image }).catch(() => {
    throw new Error("has no answer; the demo seems to be stopped");
  });
  const answer = await response.json().catch(() => {
    throw new Error(`has no answer; the demo fails with status ${response.status}`);
  });
  if (answer.error) {
    throw new Error(answer.error);
  }
  return answer;
}

function fill(card, file, answer) {
  const part = (name) => card.querySelector(`.${name}`);
  const [best] = answer.classes;
  part("image").src = answer.image;
  part("image").alt = file.name;
  if (answer.heat_map) {
    const layer = part("heat-map");
    layer.src = answer.heat_map;
    layer.alt = `Heat map of ${best}`;
    layer.hidden = false;
    part("best").textContent = best;
    part("toggle").addEventListener("change", (event) => { layer.hidden = !event.target.checked; });
    card.querySelector("figcaption").hidden = false;
  }
  answer.classes.forEach((name, i) => {
    const row = copyOf("class");
    row.querySelector("th").textContent = name;
    row.querySelector("meter").value = answer.scores[i];
    row.querySelector("meter").ariaLabel = `Probability of ${name}`;
    row.querySelector(".score").textContent = percent.format(answer.scores[i]);
    part("classes").append(row);
  });
  for (const [way, text] of Object.entries(answer.requests)) {
    const request = copyOf("request");
    request.querySelector("h3").textContent = way;
    const block = request.querySelector("pre");
    block.textContent = text;
    const button = request.querySelector("button");
    button.ariaLabel = `Copy the request: ${way}`;
    button.addEventListener("click", () => copy(button, block));
    part("requests").append(request);
  }
  part("message").remove();
  part("answer").hidden = false;
}

async function copy(button, block) {
  try {
    await navigator.clipboard.writeText(block.textContent);
    button.textContent = "Copied";
  } catch { // only pages of this machine, or with TLS, may write to the clipboard
    getSelection().selectAllChildren(block);
    button.textContent = "Selected";
  }
}

byId("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});

// Anywhere on the page, because a browser would open what is dropped beside the field.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (files.length) add(files);
  else byId("status").textContent = "That was not a file; save the image first, then drop its file";
});

about.then(
  ({ name, version, has_heat_map }) => {
    byId("model").textContent = `${name}, version ${version}`;
    document.title = `${name} - keras-resnet demo`;
    byId("no-heat-map").hidden = has_heat_map;
  },
  () => { byId("status").textContent = "The demo does not answer; it seems to be stopped"; },
);
