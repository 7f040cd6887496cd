"use strict";
// The page of a session: shows its pictures in their order, and sends what is answered.
// An answer is kept in this browser until the server says that it is stored.
(() => {
  const AHEAD = 8; // pictures that are fetched before they are wanted
  const AT_ONCE = 3; // of them: a browser has six connections, and answers need one
  const BATCH = 500;
  const TILES = 24;
  const LOOK_EVERY = 2000; // milliseconds
  const LONGEST_WAIT = 15000;
  const LONGEST_AGO = 29 * 86400000;
  const SAID = { yes: "yes", no: "no", unclear: "can’t tell" };
  const ROUND = { "": "no", no: "yes", yes: "unclear", unclear: "withdrawn" };

  const $ = (id) => document.getElementById(id);
  const show = (element, visible) => {
    element.hidden = !visible;
  };
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

  let about = null;
  let items = [];
  let answers = new Map(); // as the server has them
  let progress = null;
  let seen = 0; // changes of the server's that are known
  let place = 0;
  let mode = "single";
  let loaded = false;
  let tiles = [];
  let watch = null; // tells which tiles have been in sight
  let gone = false; // another server is at this address
  const undo = [];

  // What is not stored yet, by the answer's id; also of earlier pages of the same session.
  const outbox = (() => {
    const memory = new Map();
    let store = null;
    try {
      store = window.localStorage;
      store.setItem("imagetag-probe", "1");
      store.removeItem("imagetag-probe");
    } catch {
      store = null;
    }
    const prefix = () => `imagetag-answer ${about.key} `;
    const sound = (one) =>
      one && /^[0-9a-f]{16}$/.test(one.id) && /^[0-9a-z]{1,64}$/.test(one.item) &&
      ["yes", "no", "unclear", "withdrawn"].includes(one.answer) && Number.isFinite(one.given);
    return {
      lasting: () => store !== null,
      add(one) {
        memory.set(one.id, one);
        try {
          if (store) store.setItem(prefix() + one.id, JSON.stringify(one));
        } catch {
          store = null; // it is full: what is in memory is sent all the same
        }
      },
      remove(id) {
        memory.delete(id);
        try {
          if (store) store.removeItem(prefix() + id);
        } catch {
          store = null;
        }
      },
      all() {
        const found = new Map(memory);
        for (let i = 0; store && i < store.length; i += 1) {
          const key = store.key(i);
          if (!key || !key.startsWith(prefix())) continue;
          try {
            const one = JSON.parse(store.getItem(key));
            if (sound(one)) found.set(one.id, one);
          } catch {
            // not ours
          }
        }
        return [...found.values()].sort((a, b) => a.given - b.given);
      },
      of(item) {
        return [...memory.values()].filter((one) => one.item === item).pop();
      },
    };
  })();

  const standing = (item) => {
    const waiting = outbox.of(item);
    const answer = waiting ? waiting.answer : answers.get(item);
    return answer === "withdrawn" ? undefined : answer;
  };
  const isOpen = (item) => standing(item) === undefined;
  const ended = () => Boolean(progress && progress.ended);

  // ---- what is sent and heard

  let sending = false;
  let failures = 0;
  let timer = 0;

  const say = (state, text) => {
    $("saved").dataset.state = state;
    $("saved").textContent = text;
  };
  let trouble = ""; // why something could not be sent
  const tellSaved = (why) => {
    trouble = why;
    const waiting = outbox.all().length;
    if (gone) {
      say("lost", "Another review has begun here: open the address that it printed."
        + (waiting ? ` ${count(waiting, "verdict", "verdicts")} will be sent from there.` : ""));
    } else if (waiting && why) {
      const kept = outbox.lasting() ? "kept in this browser" : "kept while this page is open";
      say("waiting", `${count(waiting, "verdict", "verdicts")} not saved yet, ${kept}: ${why}`);
    } else if (waiting) {
      say("waiting", `saving ${count(waiting, "verdict", "verdicts")} …`);
    } else if (why) {
      say("waiting", why);
    } else {
      say("saved", "All is saved.");
    }
  };

  const ask = async (path, options) => {
    let answer;
    try {
      answer = await fetch(path, { cache: "no-store", ...options });
    } catch {
      throw new Error("no connection, trying again");
    }
    if (answer.ok) return answer.json();
    const told = await answer.json().catch(() => ({}));
    if (answer.status === 404 && !told.error) gone = true;
    throw new Error(told.error || `the server says ${answer.status}`);
  };

  const hear = (news) => {
    for (const [item, answer] of news.changes) answers.set(item, answer);
    seen = news.seen;
    const over = ended();
    progress = news.progress;
    showProgress();
    if (over && !ended() && mode === "end") showPlace(nextOpen(place)); // an answer was taken back
  };

  const later = (milliseconds) => {
    window.clearTimeout(timer);
    timer = window.setTimeout(exchange, milliseconds);
  };

  // Sends what waits, or asks for news where nothing does. One at a time, so in their order.
  const exchange = async () => {
    if (sending || gone) return;
    sending = true;
    window.clearTimeout(timer);
    const batch = outbox.all().slice(0, BATCH);
    try {
      if (batch.length) {
        tellSaved(trouble);
        const moment = now();
        const sent = batch.map(({ id, item, answer, given }) => ({
          id, item, answer, ago: Math.min(LONGEST_AGO, Math.max(0, moment - given)),
        }));
        const news = await ask(`answers?seen=${seen}`, {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ answers: sent }),
        });
        for (const id of [...news.saved, ...news.unknown]) outbox.remove(id);
        hear(news);
      } else {
        hear(await ask(`news?seen=${seen}`));
      }
      failures = 0;
      tellSaved("");
      later(outbox.all().length ? 0 : LOOK_EVERY);
    } catch (error) {
      failures += 1;
      tellSaved(error.message);
      later(Math.min(LONGEST_WAIT, 500 * 2 ** Math.min(failures, 6)));
    } finally {
      sending = false;
    }
    if (mode === "single") showJudged();
  };

  const newId = () => [...crypto.getRandomValues(new Uint8Array(8))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");

  // Goes on where a clock is set back meanwhile.
  const now = () => performance.timeOrigin + performance.now();
  let newest = 0;

  const give = (item, answer) => {
    newest = Math.max(now(), newest + 1); // of two about one picture the later counts
    outbox.add({ id: newId(), item, answer, given: newest });
    tellSaved(trouble); // at once: it is not saved yet
  };

  // Answers some pictures together; undone together.
  const judge = (pairs) => {
    undo.push({ before: pairs.map(([item]) => [item, standing(item) || "withdrawn"]), place, mode });
    for (const [item, answer] of pairs) give(item, answer);
    showProgress();
    exchange();
  };

  const takeBack = () => {
    const last = undo.pop();
    if (!last) return;
    for (const [item, answer] of last.before) give(item, answer);
    exchange();
    place = last.place;
    if (last.mode === "grid" && mode === "grid") fillTiles(place);
    else showPlace(place);
    showProgress();
  };

  // ---- pictures

  const facts = new Map();
  const fetched = new Map(); // pictures that are here or on their way, the oldest first
  let wanted = [];
  let underway = 0;

  const tell = (item) => {
    if (!facts.has(item)) {
      const promise = ask(`items/${item}`);
      promise.catch(() => facts.delete(item));
      facts.set(item, promise);
    }
    return facts.get(item);
  };

  const fetchAhead = () => {
    while (underway < AT_ONCE && wanted.length) {
      const item = wanted.shift();
      if (fetched.has(item)) continue;
      const image = new Image();
      fetched.set(item, image);
      underway += 1;
      image.src = `pictures/large/${item}`;
      const done = () => {
        underway -= 1;
        fetchAhead();
      };
      image.decode().then(done, () => {
        fetched.delete(item);
        done();
      });
      tell(item).catch(() => {});
    }
    while (fetched.size > 4 * AHEAD) fetched.delete(fetched.keys().next().value);
  };

  const nextOpen = (from) => {
    for (let step = 0; step < items.length; step += 1) {
      const index = (from + step) % items.length;
      if (isOpen(items[index])) return index;
    }
    return -1;
  };

  const following = (from, most) => {
    const found = [];
    for (let step = 0; step < items.length && found.length < most; step += 1) {
      const item = items[(from + step) % items.length];
      if (isOpen(item)) found.push(item);
    }
    return found;
  };

  const reasonOf = async (path) => {
    try {
      const answer = await fetch(path);
      if (answer.ok) return "it cannot be shown";
      return (await answer.json()).error || "it cannot be shown";
    } catch {
      return "there is no connection";
    }
  };

  // ---- what is seen

  const showProgress = () => {
    if (!progress) return;
    const counts = (answer) => Number(answer !== undefined && answer !== "withdrawn");
    const last = new Map(outbox.all().map((one) => [one.item, one.answer]));
    const change = [...last].reduce(
      (sum, [item, answer]) => sum + counts(answer) - counts(answers.get(item)), 0);
    const done = Math.max(0, progress.done + change);
    const judged = Math.min(done, progress.total);
    const left = progress.total - judged;
    $("bar").max = Math.max(1, progress.total);
    $("bar").value = judged;
    $("progress").textContent =
      `${judged.toLocaleString("en")} of ${progress.total.toLocaleString("en")} judged, ${left.toLocaleString("en")} left`;
    $("outlook").textContent = progress.outlook;
    $("undo").disabled = !undo.length;
    if (ended()) showEnd();
  };

  const showModes = () => {
    show($("single"), mode === "single");
    show($("grid"), mode === "grid");
    show($("end"), mode === "end");
    show($("single-buttons"), mode === "single");
    show($("grid-buttons"), mode === "grid");
    show($("switch"), about.sweep && !ended());
    show($("back"), about.sweep && mode !== "grid");
    show($("forward"), about.sweep && mode === "single");
    $("switch").firstChild.textContent = mode === "grid" ? "One " : "Many ";
  };

  const showEnd = () => {
    mode = "end";
    $("end-title").textContent = ended() ? "No more is asked" : "All are judged";
    $("end-text").textContent = ended()
      ? `${progress.ended}. Stop imagetag audit with Ctrl-C: imagetag status tells it then.`
      : "Every picture of this queue has a verdict. Stop imagetag review with Ctrl-C, or take another queue.";
    showModes();
  };

  const allowed = () => {
    const may = loaded && !ended();
    $("yes").disabled = !may;
    $("no").disabled = !may;
    $("unclear").disabled = ended();
  };

  const showJudged = () => {
    const answer = standing(items[place]);
    $("judged").dataset.answer = answer || "";
    $("judged").textContent = answer ? `judged: ${SAID[answer]}` : "";
    show($("judged"), Boolean(answer));
  };

  const showPlace = (index) => {
    if (index < 0 || ended()) {
      showEnd();
      return;
    }
    mode = "single";
    place = index;
    showModes();
    const item = items[place];
    const image = $("picture");
    loaded = false;
    allowed();
    show($("no-picture"), false);
    image.classList.add("loading");
    image.dataset.item = item;
    image.onload = () => {
      if (image.dataset.item !== item) return;
      image.classList.remove("loading");
      loaded = true;
      allowed();
      wanted = following(place + 1, AHEAD);
      fetchAhead();
      showAlike(item);
    };
    image.onerror = async () => {
      const why = await reasonOf(image.src);
      if (items[place] !== item) return;
      $("no-picture").textContent = `This picture cannot be shown: ${why}.`;
      show($("no-picture"), true);
      wanted = following(place + 1, AHEAD);
      fetchAhead();
    };
    image.src = `pictures/large/${item}`;
    showJudged();
    showFacts(item);
    $("single").scrollTop = 0;
  };

  const showFacts = async (item) => {
    let found;
    try {
      found = await tell(item);
    } catch (error) {
      found = { caption: error.message, link: null, notes: [], tags: [] };
    }
    if (items[place] !== item) return;
    const link = $("link");
    link.textContent = found.caption;
    if (found.link) link.href = found.link;
    else link.removeAttribute("href");
    $("picture").alt = found.caption;
    $("notes").replaceChildren(
      ...found.notes.flatMap(([name, text]) => [make("dt", name), make("dd", text)]),
    );
    $("tag-list").replaceChildren(...found.tags.map((tag) => make("li", tag)));
    show($("tags"), found.tags.length > 0);
  };

  const showAlike = async (item) => {
    if (!about.neighbours) return;
    const found = await ask(`neighbours/${item}`).catch(() => []);
    if (items[place] !== item) return;
    $("alike").replaceChildren(
      ...found.map((one) => {
        const entry = make("li");
        const image = make("img");
        image.src = `pictures/small/${one.item}`;
        image.alt = one.caption;
        image.title = one.caption;
        entry.append(image, make("p", one.note));
        return entry;
      }),
    );
    show($("neighbours"), found.length > 0);
  };

  const answerOne = (answer) => {
    if (mode !== "single" || ended() || (!loaded && answer !== "unclear")) return;
    judge([[items[place], answer]]);
    showPlace(nextOpen(place + 1));
  };

  // ---- many at once

  const showTile = (tile) => {
    const answer = standing(tile.item) || "";
    tile.button.dataset.answer = answer;
    tile.mark.textContent = SAID[answer] || "";
    tile.button.setAttribute("aria-label", answer ? `judged: ${SAID[answer]}` : "not judged");
  };

  const fillTiles = (from) => {
    const start = nextOpen(from);
    if (start < 0 || ended()) {
      showEnd();
      return;
    }
    mode = "grid";
    place = start;
    showModes();
    if (watch) watch.disconnect();
    watch = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
        entry.target.dataset.seen = "yes";
      }),
      { threshold: 0.6 },
    );
    show($("left"), false);
    tiles = following(start, TILES).map((item) => {
      const button = make("button", undefined, "tile");
      button.type = "button";
      const image = make("img");
      const mark = make("span", "");
      const tile = { item, button, mark, loaded: false };
      image.alt = "";
      image.onload = () => {
        tile.loaded = true;
      };
      image.src = `pictures/small/${item}`;
      button.append(image, mark);
      button.addEventListener("click", () => {
        judge([[item, ROUND[standing(item) || ""]]]);
        showTile(tile);
      });
      showTile(tile);
      return tile;
    });
    $("tiles").replaceChildren(
      ...tiles.map((tile) => {
        const entry = make("li");
        entry.append(tile.button);
        return entry;
      }),
    );
    $("grid").scrollTop = 0;
    tiles.forEach((tile) => watch.observe(tile.button));
    tiles[0].button.focus({ preventScroll: true });
  };

  const behind = () => items.indexOf(tiles[tiles.length - 1].item) + 1;

  const answerRest = (answer) => {
    if (mode !== "grid" || ended()) return;
    const rest = tiles.filter((tile) => isOpen(tile.item));
    // Nobody has seen the others.
    const able = rest.filter((tile) => tile.loaded && tile.button.dataset.seen);
    if (able.length) judge(able.map((tile) => [tile.item, answer]));
    const left = rest.length - able.length;
    if (!left) {
      fillTiles(behind());
      return;
    }
    tiles.forEach(showTile);
    $("left").textContent = `${count(left, "picture has", "pictures have")} not been in sight yet, and ${left === 1 ? "is" : "are"} left open.`;
    show($("left"), true);
    tiles.find((tile) => isOpen(tile.item)).button.scrollIntoView({ block: "start" });
  };

  const focused = () => tiles.findIndex((tile) => tile.button === document.activeElement);

  const answerTile = (answer) => {
    const at = focused();
    if (at < 0 || !tiles[at].loaded) return;
    judge([[tiles[at].item, answer]]);
    showTile(tiles[at]);
    if (at + 1 < tiles.length) tiles[at + 1].button.focus();
  };

  const moveInGrid = (step) => {
    const next = tiles[Math.max(0, focused()) + step];
    if (next) next.button.focus();
  };

  const change = () => {
    if (!about.sweep || ended()) return;
    if (mode === "grid") showPlace(nextOpen(place));
    else fillTiles(place);
  };

  const move = (step) => {
    if (!about.sweep || mode === "grid" || ended()) return;
    if (mode === "end") showPlace(items.length - 1);
    else if (place + step >= 0 && place + step < items.length) showPlace(place + step);
  };

  // ---- keys and buttons

  const KEYS = {
    y: () => (mode === "grid" ? answerTile("yes") : answerOne("yes")),
    n: () => (mode === "grid" ? answerTile("no") : answerOne("no")),
    "?": () => (mode === "grid" ? answerTile("unclear") : answerOne("unclear")),
    u: takeBack,
    g: change,
    arrowleft: () => (mode === "grid" ? moveInGrid(-1) : move(-1)),
    arrowright: () => (mode === "grid" ? moveInGrid(1) : move(1)),
  };

  const begin = (state) => {
    about = state.about;
    items = state.items;
    answers = new Map(Object.entries(state.answers));
    progress = state.progress;
    seen = state.seen;
    document.title = `${about.tag}: ${about.title}`;
    $("tag").textContent = about.tag;
    $("title").textContent = about.title;
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      const act = KEYS[event.key.toLowerCase()];
      if (!act) return;
      event.preventDefault();
      act();
    });
    const clicks = {
      yes: () => answerOne("yes"),
      no: () => answerOne("no"),
      unclear: () => answerOne("unclear"),
      undo: takeBack,
      switch: change,
      back: () => move(-1),
      forward: () => move(1),
      "rest-yes": () => answerRest("yes"),
      "rest-no": () => answerRest("no"),
      "rest-none": () => fillTiles(behind()),
    };
    for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
    window.addEventListener("online", () => later(0));
    showProgress();
    showPlace(nextOpen(0));
    exchange();
  };

  const load = () => {
    ask("state").then(begin, (error) => {
      say("lost", error.message);
      if (!gone) window.setTimeout(load, 2000);
    });
  };
  load();
})();
