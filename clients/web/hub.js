// One WebSocket to the hub: signs in, answers requests, resumes subscriptions by position.

const RETRY_BASE_MS = 500;
const RETRY_MAX_MS = 30_000;
const REFRESH_EARLY_MS = 60_000;

export class Fault extends Error {
  constructor(error) {
    super(error.message);
    this.reason = error.data?.reason;
    this.retryable = error.data?.retryable === true;
    this.details = error.data?.details ?? {};
  }
}

export async function post(path, body, token) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const value = await answer.json();
  if (!answer.ok) throw new Fault(value.error);
  return value;
}

// Tokens live as long as the tab: they are kept in session storage, and nowhere else.
const KEPT = "hub.session";
export const keptSession = () => JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
export const keepSession = (session) =>
  session ? sessionStorage.setItem(KEPT, JSON.stringify(session)) : sessionStorage.removeItem(KEPT);

export class Hub {
  #session;
  #socket = null;
  #calls = new Map();
  #subscriptions = new Map(); // channel -> {handlers, there, at}
  #nextId = 1;
  #attempt = 0;
  #refresh = 0;
  #ended = false;

  // handlers: ready(params), offline(), signedOut()
  constructor(session, handlers) {
    this.#session = session;
    this.handlers = handlers;
    this.#scheduleRefresh();
    this.#connect();
  }

  get token() {
    return this.#session.access_token;
  }

  call(method, params = {}) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#calls.set(id, { method, params, resolve, reject });
      if (this.ready) this.#send(id);
    });
  }

  // handlers: event(event); presence(all who are present), if that is wanted, whenever it changes;
  // ended(fault) when it cannot be followed any more.
  async subscribe(channel, handlers) {
    const subscription = { handlers, there: new Map(), at: null };
    this.#subscriptions.set(channel, subscription);
    await this.#follow(channel, subscription, "start");
  }

  async unsubscribe(channel) {
    if (this.#subscriptions.delete(channel)) await this.call("channel.unsubscribe", { channel });
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#refresh);
    this.#socket?.close();
  }

  // --- the socket ---

  #connect() {
    this.ready = false;
    const url = new URL("/ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url, "agenthub.v1"));
    socket.onopen = () =>
      socket.send(
        JSON.stringify({ jsonrpc: "2.0", id: "auth", method: "session.authenticate", params: { token: this.token } }),
      );
    socket.onmessage = (message) => this.#received(JSON.parse(message.data));
    socket.onclose = (event) => this.#closed(event.code);
  }

  async #closed(code) {
    this.ready = false;
    if (this.#ended) return;
    this.handlers.offline();
    if (code === 4005 || code === 4500) {
      if (!(await this.#refreshNow())) return;
    } else if (code >= 4500) {
      this.#signedOut();
      return;
    }
    // Full jitter, so that the clients of a lost node do not come back in the same moment.
    const most = Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** this.#attempt++);
    setTimeout(() => this.#ended || this.#connect(), Math.random() * most);
  }

  #send(id) {
    const { method, params } = this.#calls.get(id);
    this.#socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
  }

  #received(frame) {
    if (frame.method === "event") this.#event(frame.params);
    else if (frame.method === "session.ready") this.#begin(frame.params);
    else if (frame.method === "subscription.ended") this.#again(frame.params.channel);
    else if (this.#calls.has(frame.id)) {
      const { resolve, reject } = this.#calls.get(frame.id);
      this.#calls.delete(frame.id);
      if (frame.error) reject(new Fault(frame.error));
      else resolve(frame.result);
    }
  }

  #begin(params) {
    this.ready = true;
    this.#attempt = 0;
    this.handlers.ready(params);
    // What was not answered is asked again: sends carry their client_message_id.
    for (const id of this.#calls.keys()) this.#send(id);
    for (const [channel, subscription] of this.#subscriptions) {
      if (subscription.at) this.#again(channel);
    }
  }

  // --- channels ---

  async #follow(channel, subscription, since) {
    const presence = subscription.handlers.presence !== undefined;
    const answer = await this.call("channel.subscribe", { channel, since, ...(presence && { presence }) });
    if (this.#subscriptions.get(channel) !== subscription) return;
    if (presence) {
      subscription.there = new Map(answer.presence.map((who) => [who.user_id, who]));
      subscription.handlers.presence([...subscription.there.values()]);
    }
    subscription.at = { epoch: answer.epoch, seq: answer.seq };
    if (answer.snapshot) subscription.handlers.event(answer.snapshot);
  }

  #again(channel) {
    const subscription = this.#subscriptions.get(channel);
    if (!subscription) return;
    this.#follow(channel, subscription, subscription.at).catch((fault) => {
      // What the hub cannot do now (its database is away) it can do later; a new socket asks by itself.
      if (!this.ready || this.#subscriptions.get(channel) !== subscription) return;
      if (!fault.retryable) {
        this.#subscriptions.delete(channel);
        subscription.handlers.ended?.(fault);
        return;
      }
      setTimeout(() => this.ready && this.#again(channel), RETRY_BASE_MS * (1 + Math.random()));
    });
  }

  #event({ channel, epoch, seq, event }) {
    const subscription = this.#subscriptions.get(channel);
    if (!subscription?.at) return;
    if (seq === undefined) {
      // At no position: somebody else has come or gone, or types.
      if (subscription.handlers.presence) this.#presence(subscription, event);
      return;
    }
    subscription.at = { epoch, seq };
    subscription.handlers.event(event);
  }

  #presence({ there, handlers }, { name, value }) {
    if (name === "presence.left") there.delete(value.user_id);
    else if (name.startsWith("presence.")) there.set(value.user_id, { ...there.get(value.user_id), ...value });
    handlers.presence([...there.values()]);
  }

  // --- credentials ---

  #scheduleRefresh() {
    clearTimeout(this.#refresh);
    const delay = Math.max(5_000, this.#session.expires_in * 1000 - REFRESH_EARLY_MS);
    this.#refresh = setTimeout(async () => {
      if ((await this.#refreshNow()) && this.ready) {
        this.call("session.refresh", { token: this.token }).catch(() => {});
      }
    }, delay);
  }

  async #refreshNow() {
    try {
      this.#session = await post("/v1/auth/refresh", { refresh_token: this.#session.refresh_token });
    } catch (error) {
      if (!(error instanceof Fault)) return true; // the network: the socket will try again
      this.#signedOut();
      return false;
    }
    keepSession(this.#session);
    this.#scheduleRefresh();
    return true;
  }

  #signedOut() {
    this.end();
    keepSession(null);
    this.handlers.signedOut();
  }
}
