// Sharing the open conversation: with whom it is shared, and the dialog that changes it.

const $ = (id) => document.getElementById(id);
const MEANS = { reader: "may read", writer: "may read and write", approver: "may read; approves once there are tools" };

const form = $("sharing-form");
let hub = null;
let conversation = null;

function problem(error) {
  $("sharing-problem").textContent = error?.message ?? "";
}

function item(share) {
  const line = document.createElement("li");
  const who = share.name ?? (share.group_id ? "a group" : "somebody");
  const until = share.expires_at ? ` until ${new Date(share.expires_at).toLocaleString()}` : "";
  line.append(Object.assign(document.createElement("span"), { textContent: `${who} ${MEANS[share.access]}${until}` }));
  const end = Object.assign(document.createElement("button"), { type: "button", textContent: "Stop" });
  end.setAttribute("aria-label", `Stop sharing with ${who}`);
  end.onclick = () => change("conversation.unshare", share.group_id ? { group_id: share.group_id } : { user_id: share.user_id });
  line.append(end);
  return line;
}

async function list() {
  const shown = conversation;
  const { items: found } = await hub.call("conversation.shares", { conversation_id: shown.id, limit: 200 });
  if (conversation !== shown) return;
  $("shares").replaceChildren(...found.map(item));
  $("shares-none").hidden = found.length > 0;
}

// Where the tenant has groups, one of them can be chosen instead of a colleague.
async function listGroups() {
  const { items: found } = await hub.call("group.names", { limit: 200 });
  const none = new Option("none", "");
  form.elements.group.replaceChildren(none, ...found.map((group) => new Option(group.name, group.id)));
  $("sharing-group").hidden = found.length === 0;
  choose();
}

function choose() {
  form.elements.email.required = !form.elements.group.value;
}

async function change(method, params) {
  problem(null);
  try {
    await hub.call(method, { conversation_id: conversation.id, ...params });
    await list();
    return true;
  } catch (error) {
    problem(error);
    return false;
  }
}

// Opens the dialog for a conversation of one's own.
export function share(through, chosen) {
  [hub, conversation] = [through, chosen];
  problem(null);
  form.reset();
  $("shares").replaceChildren();
  $("shares-none").hidden = true;
  $("sharing").showModal();
  list().catch(problem);
  listGroups().catch(problem);
}

form.elements.group.onchange = choose;

form.onsubmit = async (event) => {
  event.preventDefault();
  const { email, group, access } = form.elements;
  const whom = group.value ? { group_id: group.value } : { email: email.value };
  if (await change("conversation.share", { ...whom, access: access.value })) form.reset();
  choose();
  email.focus();
};

$("sharing-close").onclick = () => $("sharing").close();
