// The page: sign in, conversations, one conversation's messages as they stream.

import { Fault, Hub, keepSession, keptSession, post } from "./hub.js";
import { share } from "./share.js";
import { isChallenge, providerProblem, satisfy, secondFactor, showProviders } from "./factor.js";

const $ = (id) => document.getElementById(id);
let hub = null;
let conversation = null; // the open one
let run = null; // the run in progress there
let me = null; // the user's id
let typedAt = 0; // when it was last told that one types; 0 if it is not so
const items = new Map(); // message id -> its list item

function show(signedIn) {
  for (const part of ["second-factor", "enrolment", "recovery"]) $(part).hidden = true;
  $("sign-in").hidden = signedIn;
  $("workplace").hidden = !signedIn;
  if (!signedIn) showProviders().catch(() => {});
  (signedIn ? $("text") : $("sign-in").elements.email).focus();
}

async function enter(path, body) {
  try {
    return await post(path, body);
  } catch (error) {
    if (!isChallenge(error)) throw error;
    return await secondFactor(error.details.challenge);
  }
}

async function begin(session) {
  if (!session) return show(false);
  keepSession(session);
  if (!(await satisfy(session.access_token))) {
    keepSession(null);
    return show(false);
  }
  show(true);
  hub = new Hub(session, {
    ready: (params) => {
      $("notice").textContent = "";
      $("who").textContent = params.roles.join(", ");
      me = params.user;
    },
    offline: () => ($("notice").textContent = "Connecting…"),
    signedOut: () => location.reload(),
  });
  hub.call("model.list").then(
    ({ items: [model] }) => {
      if (model?.stand_in)
        $("notice").textContent =
          `${model.name} is a small stand-in and answers poorly. Run Ollama for a real model.`;
    },
    (error) => ($("notice").textContent = error.message),
  );
  listConversations().then((first) => first && open(first));
}

$("sign-in").onsubmit = async (event) => {
  event.preventDefault();
  const { email, password } = event.target.elements;
  try {
    await begin(await enter("/v1/auth/login", { email: email.value, password: password.value }));
  } catch (error) {
    $("sign-in-problem").textContent = error.message;
  }
};

$("forgotten").onclick = async () => {
  const { email } = $("sign-in").elements;
  if (!email.reportValidity()) return;
  try {
    await post("/v1/auth/recover", { email: email.value });
    $("sign-in-notice").textContent = "If the address has an account, a letter is on its way to it.";
  } catch (error) {
    $("sign-in-problem").textContent = error.message;
  }
};

$("sign-out").onclick = async () => {
  await post("/v1/auth/logout", {}, hub.token).catch(() => {});
  hub.end();
  keepSession(null);
  location.reload();
};

// --- conversations ---

const PAGE = 50;
const WRITES = ["owner", "writer"];

async function listConversations() {
  const [own, shared] = await Promise.all([
    hub.call("conversation.list", { limit: PAGE }),
    hub.call("conversation.list", { limit: PAGE, shared: true }),
  ]);
  $("conversations").replaceChildren(...own.items.map(conversationItem));
  older(own.next_cursor);
  $("shared").replaceChildren(...shared.items.map(conversationItem));
  $("shared-with-me").hidden = shared.items.length === 0;
  return own.items[0] ?? shared.items[0];
}

function older(cursor) {
  $("more").hidden = !cursor;
  $("more").onclick = async () => {
    try {
      const { items: found, next_cursor } = await hub.call("conversation.list", { limit: PAGE, cursor });
      $("conversations").append(...found.map(conversationItem));
      older(next_cursor);
    } catch (error) {
      $("notice").textContent = error.message;
    }
  };
}

function conversationItem(found) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = found.title ?? "Untitled";
  button.onclick = () => open(found);
  button.dataset.id = found.id;
  if (found.id === conversation?.id) {
    button.setAttribute("aria-current", "true");
    head(found); // how it is shared with us may have changed
  }
  item.append(button);
  return item;
}

$("new").onclick = () => {
  leave();
  mark(null);
  $("text").focus();
};

$("share").onclick = () => share(hub, conversation);

// What others have shared meanwhile is there when one comes back to the page.
document.onvisibilitychange = () => {
  if (!document.hidden && hub?.ready) listConversations().catch(() => {});
};

function leave() {
  if (conversation) hub.unsubscribe(`conversation:${conversation.id}`).catch(() => {});
  conversation = null;
  typedAt = 0;
  head(null);
  running(null);
  present([]);
  items.clear();
  $("messages").replaceChildren();
}

// Says what is open, and lets one write only where one may.
function head(open) {
  const writes = open === null || WRITES.includes(open.access);
  $("heading").hidden = open === null;
  $("title").textContent = open?.title ?? "Untitled";
  $("access").textContent = open && open.access !== "owner" ? `Shared with you${writes ? "" : ", to read"}` : "";
  $("share").hidden = open?.access !== "owner";
  $("text").disabled = $("send").disabled = !writes;
  $("text").placeholder = writes ? "Ask something…" : "You may read here, but not write.";
}

function mark(id) {
  for (const button of $("lists").querySelectorAll("li button")) {
    button.toggleAttribute("aria-current", false);
    if (button.dataset.id === id) button.setAttribute("aria-current", "true");
  }
}

async function open(chosen) {
  leave();
  conversation = chosen;
  head(chosen);
  mark(chosen.id);
  try {
    await read(chosen);
  } catch (error) {
    if (conversation === chosen) gone(error);
  }
}

async function read(chosen) {
  let cursor;
  do {
    const page = await hub.call("message.list", { conversation_id: chosen.id, limit: 200, ...(cursor && { cursor }) });
    if (conversation !== chosen) return;
    for (const message of page.items) put(message);
    cursor = page.next_cursor;
  } while (cursor);
  await hub.subscribe(`conversation:${chosen.id}`, {
    event: (event) => conversation === chosen && apply(event),
    presence: (there) => conversation === chosen && present(there),
    ended: (fault) => conversation === chosen && gone(fault),
  });
}

// The open conversation was deleted, or is shared with us no longer.
function gone(fault) {
  const over = ["not_found", "permission_denied"].includes(fault.reason);
  $("notice").textContent = over ? "This conversation is not there for you any more." : fault.message;
  if (!over) return;
  leave();
  mark(null);
  listConversations().catch(() => {});
}

// --- who is here ---

const TYPING_AGAIN_MS = 3_000;

function present(there) {
  const others = there.filter((who) => who.user_id !== me);
  const names = (some) => some.map((who) => who.name ?? "somebody").join(", ");
  const typing = others.filter((who) => who.typing);
  const said = [
    others.length ? `Also here: ${names(others)}.` : "",
    typing.length ? `${names(typing)} ${typing.length > 1 ? "are" : "is"} typing…` : "",
  ].join(" ").trim();
  // A live region that is set to what it says already may be read aloud again.
  if ($("present").textContent !== said) $("present").textContent = said;
}

function typing(now) {
  if (!conversation || !hub.ready || (now ? Date.now() - typedAt < TYPING_AGAIN_MS : !typedAt)) return;
  typedAt = now ? Date.now() : 0;
  hub.call("channel.typing", { channel: `conversation:${conversation.id}`, typing: now }).catch(() => {});
}

$("text").oninput = () => typing($("text").value !== "");

// --- messages ---

function put({ id, role, content, complete = true }) {
  let item = items.get(id);
  if (!item) {
    item = document.createElement("li");
    items.set(id, item);
    $("messages").append(item);
  }
  item.className = role;
  item.classList.toggle("cut", !complete);
  item.textContent = content;
  scroll();
  return item;
}

function scroll() {
  const list = $("messages");
  if (list.scrollHeight - list.scrollTop - list.clientHeight < 200) list.scrollTop = list.scrollHeight;
}

function running(id) {
  run = id;
  $("stop").hidden = id === null;
  $("messages").setAttribute("aria-busy", String(id !== null));
}

function apply(event) {
  switch (event.type) {
    case "MESSAGES_SNAPSHOT":
      items.clear();
      $("messages").replaceChildren();
      event.messages.filter(({ role }) => role !== "reasoning").forEach(put);
      break;
    case "RUN_STARTED":
      running(event.runId);
      event.input.messages.forEach(put);
      break;
    case "TEXT_MESSAGE_START":
      put({ id: event.messageId, role: event.role ?? "assistant", content: "" });
      break;
    case "TEXT_MESSAGE_CONTENT":
      items.get(event.messageId)?.append(event.delta);
      scroll();
      break;
    case "RUN_FINISHED":
      if (event.outcome.type === "cancelled") $("messages").lastElementChild?.classList.add("cut");
      running(null);
      break;
    case "RUN_ERROR": {
      const item = document.createElement("li");
      item.className = "failed";
      item.textContent = event.message;
      $("messages").append(item);
      running(null);
      scroll();
    }
  }
}

$("composer").onsubmit = async (event) => {
  event.preventDefault();
  const content = $("text").value.trim();
  if (!content) return;
  $("text").value = "";
  typing(false);
  try {
    if (!conversation) {
      const made = await hub.call("conversation.create", { title: content.slice(0, 60) });
      await listConversations();
      await open(made);
    }
    await hub.call("message.send", {
      conversation_id: conversation.id,
      client_message_id: crypto.randomUUID(),
      content,
    });
  } catch (error) {
    $("notice").textContent = error.message;
    $("text").value = content;
  }
};

$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
};

$("stop").onclick = () =>
  run && hub.call("run.cancel", { run_id: run }).catch((error) => ($("notice").textContent = error.message));

// --- the beginning ---

const letter = new URLSearchParams(location.hash.slice(1));
if (location.hash) history.replaceState(null, "", location.pathname); // what a link carries does not stay in the history

function signIn(said, where = "notice") {
  $(`sign-in-${where}`).textContent = said;
  show(false);
}

function choosePassword(token) {
  $("new-password").hidden = false;
  $("new-password").elements.password.focus();
  $("new-password").onsubmit = async (event) => {
    event.preventDefault();
    try {
      await post("/v1/auth/reset", { token, password: event.target.elements.password.value });
    } catch (error) {
      $("new-password-problem").textContent = error.message;
      return;
    }
    $("new-password").hidden = true;
    keepSession(null);
    signIn("The password is set. Sign in with it.");
  };
}

// Not by opening the link alone: some programs open those of letters before anybody reads them.
function loseFactor(token) {
  $("lost-factor").hidden = false;
  $("lost-factor").querySelector("button").focus();
  $("lost-factor").onsubmit = async (event) => {
    event.preventDefault();
    try {
      await post("/v1/auth/factor/reset", { token });
    } catch (error) {
      $("lost-factor-problem").textContent = error.message;
      return;
    }
    $("lost-factor").hidden = true;
    if (keptSession()) await begin(keptSession());
    else signIn("Your password alone signs you in now.");
  };
}

if (letter.has("problem")) signIn(providerProblem(letter.get("problem")), "problem");
else if (letter.has("code")) {
  try {
    await begin(await enter("/v1/auth/link", { code: letter.get("code") }));
  } catch (error) {
    signIn(error instanceof Fault ? `${error.message} Sign in instead.` : String(error), "problem");
  }
} else if (letter.has("reset")) choosePassword(letter.get("reset"));
else if (letter.has("factor")) loseFactor(letter.get("factor"));
else if (letter.has("verify")) {
  await post("/v1/auth/verify", { token: letter.get("verify") }).then(
    () => (keptSession() ? begin(keptSession()) : signIn("The address is verified. Sign in.")),
    (error) => signIn(error.message, "problem"),
  );
} else if (keptSession()) await begin(keptSession());
else show(false);
