/* The search page. `pages` comes from search/index.js; its entries are {location, title, text}, one for every section.

   Lunr, which MkDocs brings, finds neither "horizon.reach" nor the "trunc" of truncation_bias, and ranks a text that has "grad" often
   above the function that was asked for. Here every word has to be somewhere in an entry, as a part of a word too, and titles count
   most. */

const MOST = 50;
const AROUND = 90;

/* The entries that have all words of a query, best first. */
function search(entries, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const found = [];
  for (const entry of entries) {
    const title = entry.title.toLowerCase();
    const text = entry.text.toLowerCase();
    const scores = words.map((word) => score(title, text, word));
    if (scores.every((value) => value > 0)) {
      const together = words.length > 1 && (title + " " + text).includes(words.join(" ")) ? 10 : 0;
      // Reach is a class and reach is a function.
      const same = entry.title.endsWith(query.trim()) ? 10 : 0;
      found.push({ entry, value: scores.reduce((sum, value) => sum + value, together + same), words });
    }
  }
  return found.sort((a, b) => b.value - a.value).slice(0, MOST);
}

function score(title, text, word) {
  const times = Math.min(text.split(word).length - 1, 5);
  if (title === word || title.endsWith("." + word)) return 100 + times;
  if (title.split(/[^a-z0-9]+/).includes(word)) return 40 + times;
  if (title.includes(word)) return 20 + times;
  return times;
}

/* The part of an entry's text round the first word that is found in it. */
function excerpt({ entry, words }) {
  const text = entry.text.toLowerCase();
  const places = words.map((word) => text.indexOf(word)).filter((place) => place >= 0);
  const first = Math.max(0, Math.min(...places, entry.text.length) - AROUND);
  const start = first && places.length ? entry.text.indexOf(" ", first) + 1 : 0;
  const part = entry.text.slice(start, start + 2.5 * AROUND);
  return (start ? "... " : "") + part + (start + part.length < entry.text.length ? " ..." : "");
}

/* One result as an element: the page, the section, and the words in their place. */
function shown(result, pages) {
  const { entry, words } = result;
  const item = document.createElement("article");
  const link = document.createElement("a");
  link.href = entry.location;
  link.textContent = entry.title;
  const page = pages.get(entry.location.split("#")[0]);
  const where = document.createElement("span");
  where.textContent = page === entry.title ? "" : page;
  const heading = document.createElement("h2");
  heading.append(link, where);
  const text = document.createElement("p");
  const pattern = new RegExp("(" + words.map((w) => w.replace(/[^a-z0-9]/g, "\\$&")).join("|") + ")", "gi");
  for (const [number, piece] of excerpt(result).split(pattern).entries()) {
    const node = document.createElement(number % 2 ? "mark" : "span");
    node.textContent = piece;
    text.append(node);
  }
  item.append(heading, text);
  return item;
}

if (typeof document !== "undefined") {
  const input = document.querySelector("main input");
  const output = document.querySelector("#results");
  const titles = new Map(pages.filter((e) => !e.location.includes("#")).map((e) => [e.location, e.title]));
  const answer = () => {
    const results = search(pages, input.value);
    output.replaceChildren(...results.map((result) => shown(result, titles)));
    if (!results.length && input.value.trim()) output.textContent = "Nothing has all of these words.";
  };
  input.value = new URLSearchParams(location.search).get("q") || "";
  input.addEventListener("input", answer);
  answer();
}
