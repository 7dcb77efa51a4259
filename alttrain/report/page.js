"use strict";
// Makes the tables sortable, and shows the samples: a list, of which only the visible part is drawn, and next to it one
// sample, or the samples of two runs for one prompt. Model output enters the document only as text nodes.

const byId = (id) => document.getElementById(id);
const index = JSON.parse(byId("index").textContent);
const section = byId("samples"), list = byId("list"), detail = byId("detail");
const CUT = /\0(\d+)$/; // ends a field that was cut, with its full length
const STEPS = {
  u: ["PU", "problem understanding"],
  a: ["HA", "harmfulness assessment"],
  r: ["CR", "conditional reasoning"],
  x: ["CR refuses", "conditional reasoning that refuses"],
};

/** An element; functions among the attributes are its listeners, strings among the children its text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// --- tables ---

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button", click: () => sort(table, heads, column) });
    button.append(...head.childNodes);
    head.append(button);
  });
}

function sort(table, heads, column) {
  const direction = heads[column].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", direction);
  const body = table.tBodies[0], sign = direction === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => [row.cells[column].dataset.key, row]);
  const numeric = keyed.every(([key]) => key === undefined || !Number.isNaN(Number(key)));
  const order = numeric ? (a, b) => a - b : new Intl.Collator("en", { numeric: true }).compare;
  keyed.sort(([a], [b]) => {
    // cells without a value come last in either direction
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * order(a, b);
  });
  body.append(...keyed.map(([, row]) => row));
}

// --- data: blocks of samples, decoded when first needed ---

const parts = new Map();

function decoded(name) {
  if (!parts.has(name)) parts.set(name, inflated(JSON.parse(byId(name).textContent)));
  return parts.get(name);
}

async function inflated(letters) {
  const binary = atob(letters), bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const blocks = index.blocks.map((block, number) => ({ ...block, number, data: null, prompts: null, texts: [], rows: null }));

async function load(block) {
  if (!block.data) {
    const names = [`block-${block.number}`, `prompts-${block.benchmark}`];
    [block.data, block.prompts] = await Promise.all(names.map(decoded));
  }
  return block;
}

/** A field of a sample's prompt. */
const asked = ({ block, row }, name) => block.prompts[name][block.data.prompt[row]];
/** A field of a sample. */
const field = ({ block, row }, name) => block.data[name][row];
const identity = (ref) => `${asked(ref, "id")}\n${field(ref, "sample")}`;
/** A sample in the page's address, with its protocol if the page has several. */
const address = (ref) => (index.protocols.length > 1 ? `${ref.block.protocol}\n` : "") + identity(ref);
const named = (ref) => asked(ref, "id") + (field(ref, "sample") ? ` #${field(ref, "sample")}` : "");
const verdicts = (ref) => outcomesOf(ref).filter((outcome) => outcome.group === "outcome");
const withheld = (ref) => asked(ref, "prompt") === null;
const outcomesOf = (ref) => index.outcomes.filter((_, bit) => field(ref, "outcomes") & (1 << bit));

/** All text of a sample, in lower case; made at its first search. */
function searched({ block, row }) {
  if (block.texts[row] === undefined) {
    const ref = { block, row }, thought = (field(ref, "thought") ?? []).map(([, text]) => text).join("");
    const all = [asked(ref, "id"), asked(ref, "category"), asked(ref, "prompt"), thought, field(ref, "answer")];
    block.texts[row] = all.join("\n").toLowerCase();
  }
  return block.texts[row];
}

/** The sample of the same prompt in another block, if it has one. */
function paired(ref, block) {
  if (!block) return null;
  block.rows ??= new Map(block.data.prompt.map((_, row) => [identity({ block, row }), row]));
  const row = block.rows.get(identity(ref));
  return row === undefined ? null : { block, row };
}

// --- the current choice ---

const GROUPS = [...new Set(index.outcomes.map((outcome) => outcome.group))];
const BITS = Object.fromEntries(index.outcomes.map((outcome, bit) => [outcome.key, 1 << bit]));
const mask = (keep) => index.outcomes.reduce((sum, outcome) => (keep(outcome) ? sum | BITS[outcome.key] : sum), 0);
const DECIDED = mask((outcome) => outcome.group === "outcome");
let branched = false; // whether the samples under interventions are shown beside the one without
const ANY = index.protocols.length > 1 ? "" : index.protocols[0]; // what no protocol that was picked is
const state = { run: "", benchmark: "", protocol: ANY, other: "", query: "", outcomes: new Set(), differs: false };
// never stored: after a reload all harmful texts are hidden again
const shown = { all: false, samples: new Set() };
let refs = [], at = -1, turn = 0, height = 0; // height of a row of the list in pixels, as in page.css

async function refresh(wanted = null) {
  if (state.other === state.run) state.other = byId("other").value = ""; // beside itself there would be no sample
  if (!state.other) state.differs = false;
  const mine = ++turn, before = wanted === null ? refs[at] : undefined, keep = (before ? address(before) : wanted) ?? "";
  section.setAttribute("aria-busy", "true");
  const of = (run, benchmark) => blocks.filter((block) => block.of === undefined &&
    (run === "" || index.runs[block.run] === run) && (benchmark === "" || index.benchmarks[block.benchmark] === benchmark)
    && (state.protocol === "" || block.protocol === state.protocol));
  const own = await Promise.all(of(state.run, state.benchmark).filter((b) => index.runs[b.run] !== state.other).map(load));
  const beside = state.other === "" ? [] : await Promise.all(of(state.other, state.benchmark).map(load));
  if (mine !== turn) return; // the choice changed while these were decoded
  const made = (block) => `${block.protocol}\n${block.benchmark}`; // a sample is beside one that was made by the same protocol
  const others = new Map(beside.map((block) => [made(block), block]));
  let all = own.flatMap((block) => block.data.prompt.map((_, row) => ({ block, row, pair: null })));
  const present = all.reduce((sum, ref) => sum | field(ref, "outcomes"), 0), total = all.length;
  for (const ref of all) ref.pair = paired(ref, others.get(made(ref.block)));
  const query = state.query.trim().toLowerCase();
  if (query) all = all.filter((ref) => searched(ref).includes(query));
  if (state.differs) all = all.filter(({ block, row, pair }) =>
    pair && (field({ block, row }, "outcomes") ^ field(pair, "outcomes")) & DECIDED);
  drawFilters(all, present);
  const masks = GROUPS.map((group) => mask((o) => o.group === group && state.outcomes.has(o.key))).filter(Boolean);
  refs = all.filter((ref) => masks.every((chosen) => field(ref, "outcomes") & chosen));
  // the same sample if it is still there, else the same prompt of another run, else by another protocol, else the first
  const prompt = keep.split("\n").slice(-2).join("\n");
  const same = [(ref) => before && key(ref) === key(before), (ref) => address(ref) === keep, (ref) => identity(ref) === prompt];
  at = same.map((is) => refs.findIndex(is)).find((place) => place >= 0) ?? (refs.length ? 0 : -1);
  byId("status").textContent = `${refs.length.toLocaleString("en")} of ${total.toLocaleString("en")} samples`;
  const several = state.run === "" || state.benchmark === "" || state.protocol === "";
  height = several ? 84 : 62;
  list.classList.toggle("tall", several);
  byId("rows").style.height = `${refs.length * height}px`;
  list.scrollTop = Math.max(0, at * height - list.clientHeight / 2);
  drawRows();
  drawDetail();
  section.setAttribute("aria-busy", "false");
}

function select(row) {
  at = Math.min(Math.max(row, 0), refs.length - 1);
  if (at * height < list.scrollTop) list.scrollTop = at * height;
  else if ((at + 1) * height > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * height - list.clientHeight;
  drawRows();
  requestAnimationFrame(drawDetail); // while a key is held down, draw at most one sample per frame
  remember();
}

function enter() {
  if (at < 0) return;
  drawDetail();
  byId("browser").classList.add("opened");
  detail.focus({ preventScroll: innerWidth > 760 });
}

function leave() {
  byId("browser").classList.remove("opened");
  list.focus();
  drawRows();
}

/** Write the choice to the address, so that it can be kept and shared. What is uncovered is not part of it. */
function remember() {
  const ref = refs[at], pairs = [["run", state.run], ["benchmark", state.benchmark], ["protocol", state.protocol === ANY ? "" : state.protocol], ["other", state.other],
    ["outcome", [...state.outcomes].join(" ")], ["differs", state.differs ? "1" : ""], ["q", state.query],
    ["sample", ref ? address(ref) : ""]];
  const told = new URLSearchParams(pairs.filter(([name, value]) => value || name === "run" || name === "benchmark"));
  try { history.replaceState(null, "", `#${told}`); } catch { /* an embedding frame may forbid it */ }
}

/** Read the choice from the address, if it has one. */
function recall() {
  const told = new URLSearchParams(location.hash.slice(1));
  if (!told.has("run") && !told.has("benchmark")) return false;
  const known = (name, names) => (names.includes(told.get(name)) ? told.get(name) : "");
  Object.assign(state, {
    run: known("run", index.runs), benchmark: known("benchmark", index.benchmarks), other: known("other", index.runs),
    protocol: known("protocol", index.protocols) || ANY,
    query: told.get("q") ?? "", differs: told.get("differs") === "1",
    outcomes: new Set((told.get("outcome") ?? "").split(" ").filter((key) => key in BITS)),
  });
  for (const name of ["run", "benchmark", "protocol", "other"]) byId(name).value = state[name];
  byId("search").value = state.query;
  return told.get("sample") ?? "";
}

// --- the list ---

const badge = (outcome) => make("span", { class: `badge ${outcome.tone}`, title: outcome.title }, outcome.label);
const covered = (ref) => Boolean(asked(ref, "harmful")) && !shown.all && !shown.samples.has(key(ref));
const key = (ref) => `${ref.block.number}\n${identity(ref)}`;

function drawRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / height) - 3);
  const last = Math.min(refs.length, Math.ceil((list.scrollTop + list.clientHeight) / height) + 3);
  byId("rows").replaceChildren(...refs.slice(first, last).map((ref, offset) => listed(ref, first + offset)));
  if (at >= first && at < last) list.setAttribute("aria-activedescendant", `row-${at}`);
  else list.removeAttribute("aria-activedescendant");
}

function listed(ref, row) {
  const hidden = covered(ref) || withheld(ref);
  const snippet = withheld(ref) ? "text left out" : hidden ? "harmful prompt, covered" : asked(ref, "prompt").slice(0, 160);
  const where = [state.run === "" ? index.runs[ref.block.run] : "", state.benchmark === "" ? index.benchmarks[ref.block.benchmark] : "", state.protocol === "" ? ref.block.protocol : ""].filter(Boolean);
  const node = make("div", {
    role: "option", id: `row-${row}`, class: "row", "aria-selected": String(row === at),
    "aria-posinset": row + 1, "aria-setsize": refs.length,
    click: () => { select(row); enter(); },
  },
  make("div", { class: "line" }, make("b", {}, named(ref)), ...(state.other ? verdicts(ref).map(badge) : outcomesOf(ref).map(badge)),
    ref.pair ? make("span", { class: "versus" }, "|") : null, ...(ref.pair ? verdicts(ref.pair).map(badge) : [])),
  make("div", { class: hidden ? "snippet hidden" : "snippet", dir: "auto" },
    snippet.replace(/\s+/g, " ")),
  where.length ? make("div", { class: "where" }, where.join(" · ")) : null);
  node.style.transform = `translateY(${row * height}px)`;
  return node;
}

// --- one sample ---

function drawDetail() {
  const ref = refs[at];
  if (!ref) {
    detail.replaceChildren(make("p", { class: "empty" }, "No sample is so. Take a filter away, or search for less."));
    return;
  }
  detail.setAttribute("aria-label", `Sample ${named(ref)}`);
  const hidden = covered(ref), under = interventions(ref);
  const opened = branched && under.length > 0, branches = opened ? branchesOf(ref, under) : [];
  const sides = opened ? [ref, ...branches] : ref.pair ? [ref, ref.pair] : [ref];
  const uncovered = shown.all || shown.samples.has(key(ref)), coverable = sides.some((one) => asked(one, "harmful"));
  const facts = [index.benchmarks[ref.block.benchmark], index.protocols.length > 1 && ref.block.protocol, asked(ref, "label"), asked(ref, "category")].filter(Boolean);
  detail.replaceChildren(
    make("header", {},
      make("button", { type: "button", class: "back", click: leave }, "← list"),
      make("h3", {}, named(ref)), make("span", { class: "facts" }, facts.join(" · ")),
      under.length ? make("button", { type: "button", class: "branches", "aria-pressed": String(opened), click: branch },
        opened ? "Without interventions" : `Under ${under.length} intervention${under.length > 1 ? "s" : ""}`) : null,
      coverable && !withheld(ref) && !shown.all
        ? make("button", { type: "button", class: "show", click: toggle }, uncovered ? "Cover this sample" : "Show this sample") : null),
    make("h4", {}, "Prompt"), texted(ref, hidden, asked(ref, "prompt")),
    make("div", { class: opened ? "sides many" : sides.length > 1 ? "sides two" : "sides" }, ...sides.map((one) =>
      side(one, Boolean(asked(one, "harmful")) && !uncovered, opened ? one.block.intervention ?? "no intervention" : index.runs[one.block.run],
        opened && field(one, "prompt") !== field(ref, "prompt"))),
    opened && !branches.length && under.every((block) => block.data)
      ? make("p", { class: "empty" }, "No intervention has this prompt.") : null));
  detail.scrollTop = 0;
}

/** The blocks of the same run and benchmark under an intervention. */
const interventions = (ref) => blocks.filter((block) => block.of === ref.block.number);

/** The samples of the same prompt under interventions; drawn again once they are decoded. */
function branchesOf(ref, under) {
  if (under.some((block) => !block.data)) Promise.all(under.map(load)).then(drawDetail);
  return under.filter((block) => block.data).map((block) => paired(ref, block)).filter(Boolean);
}

async function branch() {
  await Promise.all(interventions(refs[at]).map(load));
  branched = !branched;
  drawDetail();
  detail.querySelector(".branches")?.focus({ preventScroll: true });
}

/** What an intervention wrote. */
const given = (...nodes) => make("div", { class: "given" }, make("p", { class: "facts" }, "given by the intervention"), ...nodes);

function thoughts(pieces) {
  const [put, own] = [true, false].map((wanted) => pieces.filter((piece) => Boolean(piece[2]) === wanted).map(step));
  return make("div", { class: "thought" }, put.length ? given(...put) : null, ...own);
}

function answered(text, put) {
  return put ? [given(prose(text.slice(0, put))), text.length > put ? prose(text.slice(put)) : null] : [prose(text)];
}

/** A sample under its name. `changed`: its prompt is not the one above. */
function side(ref, hidden, name, changed) {
  const [thought, answer] = field(ref, "tokens"), bare = hidden || withheld(ref), failed = field(ref, "error");
  const ending = { stop: "ended by itself", length: "cut by the token cap", error: "not generated" }[field(ref, "finish")];
  const earlier = field(ref, "earlier") ?? [], gold = asked(ref, "gold");
  return make("section", { class: "side", "aria-label": ref.block.intervention ?? index.runs[ref.block.run] },
    make("h4", { class: "run" }, name),
    make("p", { class: "badges" }, ...outcomesOf(ref).map(badge)),
    make("p", { class: "facts" }, `${thought} thought tokens · ${answer} answer tokens · ${ending}`,
      field(ref, "closed") ? "" : " · the thought never closed"),
    failed ? make("p", { class: "error" }, "error: ", hidden ? "covered" : failed) : null,
    structured(field(ref, "structure")),
    ...(changed ? [make("h5", {}, "Prompt"), texted(ref, hidden, asked(ref, "prompt"))] : []),
    ...(bare ? [] : earlier.flatMap((text, turn) => [make("h5", {}, `Answer to turn ${turn + 1}`), prose(text)])),
    make("h5", {}, "Thought"),
    bare ? texted(ref, hidden) : field(ref, "thought").length ? thoughts(field(ref, "thought")) : make("p", { class: "empty" }, "no thought"),
    make("h5", {}, "Answer"),
    ...(bare ? [texted(ref, hidden)] : field(ref, "answer").trim() ? answered(field(ref, "answer"), field(ref, "given"))
      : [make("p", { class: "empty" }, "no answer")]),
    ...(gold.length && !bare ? [make("h5", {}, "Gold answer"), prose(gold.join("\n"))] : []),
    make("h5", {}, "Verdicts"),
    make("ul", { class: "verdicts" }, ...field(ref, "verdicts").map((verdict) => judged(ref, verdict, bare))));
}

/** A text, or the reason why it is hidden; a hidden text is nowhere in the document. */
function texted(ref, hidden, text = "") {
  if (withheld(ref)) return make("p", { class: "cover" }, "Left out of this page.");
  return hidden ? make("p", { class: "cover" }, "Covered: the prompt is harmful.") : prose(text);
}

function prose(text) {
  const cut = CUT.exec(text), own = cut ? text.slice(0, cut.index) : text;
  return make("div", { class: "text", dir: "auto" }, ...marked(own),
    cut ? make("p", { class: "cut" }, `Cut here: ${(Number(cut[1]) - own.length).toLocaleString("en")} more characters are in generations.jsonl or judgements.jsonl.`) : null);
}

/** A text with the search matches marked. */
function marked(text) {
  const query = state.query.trim();
  if (!query) return [text];
  const pattern = new RegExp(`(${query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})`, "giu");
  return text.split(pattern).map((part, number) => (number % 2 ? make("mark", {}, part) : part));
}

function step([name, text]) {
  if (!name && !text.trim()) return null;
  const [tag, title] = STEPS[name] ?? ["", ""];
  return make("div", { class: `step step-${name || "none"}` }, tag ? make("abbr", { class: "tag", title }, tag) : null, prose(name ? text : text.trim()));
}

function structured(found) {
  const [understanding, assessment, continuation, ordered, consistent, answered, words, share] = found;
  if (!understanding && assessment === null && continuation === null) return make("p", { class: "facts" }, "the thought holds no step");
  const yes = (value) => (value === null ? "unknown" : value ? "yes" : "no");
  const place = words === null ? "" : ` after ${words} words, ${Math.round(100 * share)} % in`;
  const facts = [["PU", yes(understanding)], ["HA", (assessment === "benign" ? "harmless" : assessment ?? "none") + place],
    ["CR", continuation === "refusal" ? "refuses" : continuation === "reasoning" ? "reasons on" : "none"],
    ["in order", yes(ordered)], ["CR does as HA says", yes(consistent)], ["answer does as CR", yes(answered)]];
  return make("dl", { class: "structure" }, ...facts.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))));
}

function judged(ref, [judge, verdict, evidence, error, probability, value, raw], bare) {
  const [name, part] = ref.block.data.judges[judge], decides = ref.block.decides;
  const first = decides.judge === name && decides.part === part;
  const says = first ? decides.says : decides.others[`${name} ${part}`];
  const told = verdict === null ? "undecided" : says ? `${says}: ${verdict ? "yes" : "no"}` : verdict ? "true" : "false";
  const numbers = [probability === null ? "" : `probability ${probability.toFixed(3)}`, value === null ? "" : `score ${value.toFixed(3)}`];
  return make("li", {},
    make("b", {}, name), ` on ${part}: `, make("span", { class: "badge plain" }, told), first ? make("span", { class: "facts" }, " decides") : null,
    make("span", { class: "facts" }, numbers.filter(Boolean).map((number) => ` · ${number}`).join("")),
    evidence ? make("div", { class: "evidence" }, "evidence: ", bare ? "covered" : prose(evidence)) : null,
    error ? make("div", { class: "error" }, "error: ", bare && error !== "left out" ? "covered" : prose(error)) : null,
    raw && !bare ? make("details", {}, make("summary", {}, "what the judge wrote"), prose(raw)) : null);
}

// --- two runs or methods, compared prompt by prompt ---

const picks = [...index.methods, ...index.runs.map((name, number) => ({ name, runs: [number] }))];
const Z = 1.959963984540054; // the 97.5 % quantile of the normal distribution

/** The 97.5 % quantile of Student's t; above 30 degrees of freedom by its expansion (Abramowitz and Stegun, 26.7.5). */
function student(freedom, students) {
  if (freedom <= students.length) return students[freedom - 1];
  return Z + (Z ** 3 + Z) / (4 * freedom) + (5 * Z ** 5 + 16 * Z ** 3 + 3 * Z) / (96 * freedom ** 2)
    + (3 * Z ** 7 + 19 * Z ** 5 + 17 * Z ** 3 - 15 * Z) / (384 * freedom ** 3);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const known = (letter) => letter === "0" || letter === "1";

/** The number of each key among the distinct ones. */
function numbered(keys) {
  const numbers = new Map([...new Set(keys)].map((key, number) => [key, number]));
  return keys.map((key) => numbers.get(key));
}

/** The sum of the values of each cluster. */
const grouped = (values, clusters) => values.reduce((totals, value, place) => {
  totals[clusters[place]] += value;
  return totals;
}, Array(new Set(clusters).size).fill(0));

/** The centre of Bonett and Price's interval and half its width. `off` has what each cluster adds to the mean's error. */
function spread(difference, off) {
  const n = off.length, clusters = n + 2, centre = difference * n / clusters;
  const square = (n * (n * sum(off.map((own) => own ** 2)) + difference ** 2) + 2) / clusters;
  return { centre, half: Z * Math.sqrt((square - centre ** 2) / clusters) };
}

/** The second run's rate minus the first's: `statistics.compare`. `goals` has the number of each prompt's goal. */
function ofRuns(first, second, { prompts, goals }) {
  const places = [...first].map((_, place) => place).filter((place) => first[place] !== "-" && (second[place] ?? "-") !== "-");
  const decided = places.filter((place) => known(first[place]) && known(second[place])), undecided = places.length - decided.length;
  const there = [...new Set(decided.map((place) => prompts[place]))], n = there.length;
  if (!n) return { n, undecided };
  const items = numbered(decided.map((place) => prompts[place])), texts = grouped(items.map(() => 1), items);
  const arms = [first, second].map((letters) => grouped(decided.map((place) => Number(letters[place])), items).map((hits, item) => hits / texts[item]));
  const rates = arms.map((own) => sum(own) / n), difference = rates[1] - rates[0], clusters = numbered(there.map((prompt) => goals[prompt]));
  const off = grouped(arms[1].map((rate, item) => (rate - arms[0][item] - difference) / n), clusters);
  return { n, rates, difference, ...spread(difference, off), undecided };
}

/**
 * The same over several seeds of either, in which seeds and prompts vary: `statistics.variation` of one set. If nothing
 * varies, which would be an interval of no width, it is that of one seed.
 */
function ofMethods(arms, { prompts, goals }, { students, bound }) {
  const tables = arms.map((seeds) => seeds.map((letters) => {
    const own = goals.map(() => []);
    prompts.forEach((prompt, place) => { if (known(letters[place])) own[prompt].push(Number(letters[place])); });
    return own.map((values) => (values.length ? sum(values) / values.length : null));
  })).map((rows) => rows.filter((row) => row.some((value) => value !== null)));
  const there = [...new Set(prompts)].filter((prompt) => tables.every((rows) => rows.some((row) => row[prompt] !== null)));
  const lacking = (letters) => [...letters].filter((letter) => letter === "u").length;
  const undecided = sum(arms.flat().map(lacking)), n = there.length;
  const clusters = numbered(there.map((prompt) => goals[prompt])), freedom = new Set(clusters).size - 1;
  if (freedom < 1) return { n: 0, undecided };
  const fits = tables.map((rows) => crossed(rows.map((row) => there.map((prompt) => row[prompt])).filter((row) => row.some((value) => value !== null)), clusters));
  const variance = sum(fits[1].clusters.map((off, place) => (off - fits[0].clusters[place]) ** 2)) * (freedom + 1) / freedom - fits[0].rest - fits[1].rest;
  const parts = [[Math.max(0, variance), freedom, Infinity]];
  for (const { seeds, mean, rest } of fits) {
    const most = rest + (bound * mean * (1 - mean)) ** 2 / seeds.length;
    if (seeds.length > 1) parts.push([sum(seeds.map((off) => off ** 2)) * seeds.length / (seeds.length - 1), seeds.length - 1, most]);
  }
  const squares = parts.map(([own, freedom, most]) => Math.min(own * student(freedom, students) ** 2, Math.max(own, most) * Z ** 2));
  const rates = fits.map((fit) => fit.mean), difference = rates[1] - rates[0];
  const half = Math.sqrt(sum(squares));
  return { n, rates, difference, ...(half > 1e-9 ? { centre: difference, half } : spread(difference, Array(freedom + 1).fill(0))), undecided };
}

/** The mean over prompts of their means over seeds, the deviations of seeds and clusters, and the residual variance: `statistics._crossed`. */
function crossed(rows, clusters) {
  const columns = rows[0].map((_, place) => rows.map((row) => row[place]));
  const count = (values) => Math.max(1, values.filter((value) => value !== null).length);
  const counts = rows.map(count), heights = columns.map(count), cells = rows.flat().filter((value) => value !== null).length;
  const weights = heights.map((height) => cells / columns.length / height); // all 1 if none is missing
  const mean = sum(rows.map((row) => sum(row.map((value, place) => weights[place] * value)))) / cells;
  const off = rows.map((row) => row.map((value) => (value === null ? 0 : value - mean)));
  const seeds = off.map(sum), items = columns.map((_, place) => sum(off.map((row) => row[place])));
  const squares = rows.map((row, seed) => sum(grouped(row.map((value, place) => (value === null ? 0
    : weights[place] * (off[seed][place] - seeds[seed] / counts[seed] - items[place] / heights[place]))), clusters).map((value) => value ** 2)));
  const weighted = off.map((row) => sum(row.map((value, place) => weights[place] * value))), share = (value) => value / cells;
  const own = grouped(items.map((value, place) => share(weights[place] * value)), clusters);
  const freedom = Math.max(1, (rows.length - 1) * (own.length - 1));
  return { mean, seeds: weighted.map(share), clusters: own, rest: sum(squares) * own.length / columns.length / freedom / cells };
}

/** Keys whose values differ, with both values. */
function differing(one, other) {
  return [...new Set([...Object.keys(one), ...Object.keys(other)])].sort().filter((name) => one[name] !== other[name])
    .map((name) => [name, one[name] ?? "absent", other[name] ?? "absent"]);
}

/** Why two are not compared on a benchmark, of which they have no numbers that were made in the same way. */
function why(ways, names) {
  const absent = ways.findIndex((own) => !own.length);
  if (absent >= 0) return `${names[absent]} was not judged on it`;
  const [[one], [other]] = ways;
  if (one.protocol !== other.protocol) return `other protocols: ${one.protocol}, ${other.protocol}`;
  const judges = ways.map(([{ decides }]) => `${decides.judge} on ${decides.part}`);
  if (judges[0] !== judges[1]) return `other judges: ${judges.join(", ")}`;
  const told = differing(one.settings, other.settings).map(([name, ...values]) => `${name}: ${values.join(", ")}`);
  return told.length ? `evaluated otherwise: ${told.join("; ")}` : "evaluated otherwise; what differs was not recorded";
}

/** A share in percent; of two equally near tenths the even one, as in Python. */
const percent = (share) => ((100 * share) % 1 === 0.25 ? 100 * share - 0.05 : 100 * share).toFixed(1);
const signed = (share) => `${share < 0 ? "−" : "+"}${percent(Math.abs(share))}`;

/** Cells of words. */
const worded = (...texts) => texts.map((text) => make("td", { class: "words", "data-key": text }, text));

/** The table's rows of a benchmark, each with whether the two are compared in it. */
function comparison(benchmark, ways, chosen, data) {
  const same = ways[0].filter((way) => ways[1].includes(way));
  const row = (same, ...cells) => ({ same, row: make("tr", {}, make("th", { scope: "row", "data-key": benchmark }, benchmark), ...cells) });
  const empty = () => make("td", {});
  const unlike = (reason, protocol = "") => row(false, ...worded(protocol, ""), empty(), empty(),
    make("td", { class: "words" }, `not compared: ${reason}`), empty(), empty());
  if (!same.length) return [unlike(why(ways, chosen.map((one) => one.name)))];
  return same.map((way) => {
    const arms = chosen.map(({ runs }) => runs.map((run) => way.verdicts[index.runs[run]]).filter((one) => one !== undefined));
    const single = arms.every((seeds) => seeds.length === 1);
    const found = single ? ofRuns(arms[0][0], arms[1][0], way) : ofMethods(arms, way, data);
    if (!found.n) return unlike(`${single ? "no prompt has" : "fewer than two goals have"} a verdict in both`, way.protocol);
    const ends = [Math.max(-1, found.centre - found.half), Math.min(1, found.centre + found.half)];
    const judges = new Set(ways.flat().filter((one) => one.protocol === way.protocol).map((one) => one.decides.judge));
    const seeds = arms.map((own, arm) => own.length + (own.length < chosen[arm].runs.length ? ` of ${chosen[arm].runs.length}` : ""));
    const whole = single && arms.every((own, arm) => own.length === chosen[arm].runs.length);
    return row(true, ...worded(way.protocol, way.decides.measure + (judges.size > 1 ? ` by ${way.decides.judge}` : "")),
      ...found.rates.map((rate) => make("td", { "data-key": rate }, percent(rate))),
      make("td", { "data-key": found.difference }, make("b", {}, signed(found.difference)), " ",
        make("span", { class: "interval" }, ends.map(signed).join(" to "))),
      make("td", { "data-key": found.n }, `${found.n}${whole ? "" : `, ${seeds.join(" and ")} seeds`}`),
      make("td", { "data-key": found.undecided }, String(found.undecided)));
  });
}

function tabled(name, heads, words, rows, caption) {
  const table = make("table", {}, make("caption", {}, make("span", {}, caption)),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", class: words.includes(head) && "words" }, head)))), make("tbody", {}, ...rows));
  sortable(table);
  return make("div", { class: "scroll", role: "region", "aria-label": `Table: ${name}`, tabindex: 0 }, table);
}

async function compareTwo() {
  const data = await decoded("verdicts"), chosen = ["one", "two"].map((id) => picks[byId(id).value]);
  const waysOf = ({ runs }, benchmark) => data.ways.filter((way) => way.benchmark === benchmark
    && runs.some((run) => way.verdicts[index.runs[run]] !== undefined));
  const rows = index.benchmarks.flatMap((benchmark) => {
    const ways = chosen.map((one) => waysOf(one, benchmark));
    return ways.some((own) => own.length) ? comparison(benchmark, ways, chosen, data) : [];
  });
  const settings = chosen.map(({ runs }) => data.settings[index.runs[runs[0]]]), names = chosen.map((one) => one.name);
  const differ = differing(...settings).map(([name, ...values]) => make("tr", {}, make("th", { scope: "row", "data-key": name }, name), ...worded(...values)));
  const compared = rows.filter(({ same }) => same).length;
  byId("compared").textContent = `${compared} of ${rows.length} rows compared. Settings that differ: ${differ.length}.`;
  byId("versus").replaceChildren(
    tabled("Comparison", ["benchmark", "protocol", "measure", "first %", "second %", "second minus first", "n", "undecided"],
      ["protocol", "measure"], rows.map(({ row }) => row),
      "Paired by prompt, of the prompts with a verdict in both: the difference in points with its 95 % interval, for this pair alone. "
      + "With several seeds or texts a prompt, n counts prompts. With several seeds the interval allows for other seeds, too, and undecided counts all texts without a verdict."),
    ...(differ.length ? [make("h3", {}, "Settings that differ"),
      tabled("Settings", ["setting", ...names], names, differ, "Of a method, those of its first seed.")] : []));
}

// --- controls ---

function drawFilters(all, present) {
  const counts = index.outcomes.map((_, bit) => all.reduce((sum, ref) => sum + ((field(ref, "outcomes") >> bit) & 1), 0));
  const focused = document.activeElement?.dataset?.filter;
  const groups = GROUPS.map((group) => make("div", { role: "group", "aria-label": `Filter by ${group}` },
    ...index.outcomes.map((outcome, bit) => (outcome.group === group && (present & (1 << bit) || state.outcomes.has(outcome.key))
      ? chip(outcome.key, outcome.label, counts[bit], outcome.title, outcome.tone) : null))));
  const differs = make("div", { role: "group", "aria-label": "Filter by difference" },
    chip("differs", "outcomes differ", null, "Only prompts on which the two runs come to different outcomes", "plain"));
  byId("filters").replaceChildren(...groups.filter((group) => group.childElementCount), ...(state.other ? [differs] : []));
  // the pressed chip was replaced by a new one, which gets the focus
  if (focused) byId("filters").querySelector(`[data-filter="${focused}"]`)?.focus();
}

function chip(name, label, count, title, tone) {
  const pressed = name === "differs" ? state.differs : state.outcomes.has(name);
  return make("button", { type: "button", class: `chip ${tone}`, "data-filter": name, "aria-pressed": String(pressed), title,
    click: () => {
      if (name === "differs") state.differs = !state.differs;
      else if (!state.outcomes.delete(name)) state.outcomes.add(name);
      changed();
    } }, label, count === null ? null : make("span", { class: "count" }, count.toLocaleString("en")));
}

const changed = () => refresh().then(remember);

/** Show or cover the current sample. */
function toggle() {
  const ref = refs[at];
  if (!ref || !detail.querySelector(".show")) return;
  if (!shown.samples.delete(key(ref))) shown.samples.add(key(ref));
  const inside = detail.contains(document.activeElement);
  drawRows();
  drawDetail();
  if (inside) detail.querySelector(".show").focus({ preventScroll: true });
}

function cover(all) {
  shown.all = all;
  shown.samples.clear();
  byId("reveal").setAttribute("aria-pressed", String(all));
  byId("reveal").textContent = all ? "Cover harmful texts" : "Show harmful texts";
  drawRows();
  drawDetail();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select"), page = Math.max(1, Math.floor(list.clientHeight / height) - 1);
  if (event.key === "Escape" && !typing) return leave();
  if (typing) return undefined;
  const moves = event.target === list ? { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity } : {};
  const move = { j: 1, k: -1, ...moves }[event.key];
  const acts = { "/": () => byId("search").focus(), s: toggle, ...(event.target === list ? { Enter: enter } : {}) };
  if (move === undefined && !acts[event.key]) return undefined;
  event.preventDefault();
  if (move !== undefined) select(at + move);
  else acts[event.key]();
  return undefined;
}

function start() {
  document.querySelectorAll("table.sortable").forEach(sortable);
  const options = (names, none) => [make("option", { value: "" }, none), ...names.map((name) => make("option", { value: name }, name))];
  byId("run").append(...options(index.runs, "all runs"));
  byId("benchmark").append(...options(index.benchmarks, "all benchmarks"));
  byId("protocol").append(...options(index.protocols, "all protocols"));
  byId("other").append(...options(index.runs, "none"));
  const grouped = (label, first, last) => make("optgroup", { label },
    ...picks.slice(first, last).map((pick, number) => make("option", { value: first + number }, pick.name)));
  for (const [number, name] of ["one", "two"].entries()) {
    byId(name).append(grouped("Methods, all their seeds", 0, index.methods.length), grouped("Runs", index.methods.length));
    byId(name).selectedIndex = Math.min(number, picks.length - 1);
    byId(name).addEventListener("change", compareTwo);
  }
  for (const name of ["run", "benchmark", "protocol", "other"]) {
    byId(name).addEventListener("change", () => { state[name] = byId(name).value; changed(); });
  }
  let waiting;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = byId("search").value; changed(); }, 150);
  });
  byId("legend").append(...Object.entries(STEPS).map(([name, [tag, title]]) =>
    make("li", { class: `step step-${name}` }, make("span", { class: "tag" }, tag), ` ${title}`)));
  byId("reveal").addEventListener("click", () => cover(!shown.all));
  byId("reveal").hidden = index.texts !== "all";
  let drawing = false;
  list.addEventListener("scroll", () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; drawRows(); });
  }, { passive: true });
  addEventListener("resize", drawRows);
  section.addEventListener("keydown", pressed);
  addEventListener("hashchange", arrive);
  addEventListener("pageshow", (event) => { if (event.persisted) cover(false); }); // the page was restored from the history
  addEventListener("unhandledrejection", (event) => { byId("status").textContent = `The samples cannot be read: ${event.reason}`; });
  state.run = index.runs[index.blocks[0].run];
  state.benchmark = index.benchmarks[index.blocks[0].benchmark];
  if (typeof DecompressionStream === "undefined") {
    byId("status").textContent = "This browser is too old to unpack the samples; the tables above are whole.";
    return;
  }
  compareTwo();
  if (!arrive()) {
    byId("run").value = state.run;
    byId("benchmark").value = state.benchmark;
    refresh().then(() => performance.mark("samples"));
  }
}

/** Go to the samples that the address names. */
function arrive() {
  const sample = recall();
  if (sample === false) return false;
  refresh(sample).then(() => {
    performance.mark("samples");
    section.scrollIntoView();
    list.focus({ preventScroll: true });
  });
  return true;
}

start();
