// Pages that explain come before pages of measurements and lists, and those whose title has all the words first.
// The numbers are Sphinx's own, but for `score`.
const LISTS = ["peers", "benchmarks", "coverage", "changelog", "contributing", "citing"];
const WORDS = (new URLSearchParams(window.location.search).get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);

var Scorer = {
  score: ([page, title, , , score]) => {
    const named = WORDS.length > 1 && WORDS.every((word) => title.toLowerCase().includes(word));
    return score + (named ? 20 : 0) - (LISTS.includes(page) ? 30 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
