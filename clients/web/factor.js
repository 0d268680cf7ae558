// The second factor: its code at sign-in, and setting one up where the tenant demands it.

import { Fault, post } from "./hub.js";

const $ = (id) => document.getElementById(id);

function alone(id) {
  for (const part of ["sign-in", "second-factor", "enrolment", "recovery", "workplace"]) $(part).hidden = part !== id;
  $(id).querySelector("input, button")?.focus();
}

// Asks for codes until `show` takes one: what it answers, or null when it is given up or over.
function asked(show) {
  const form = $("second-factor");
  form.reset();
  $("second-factor-problem").textContent = "";
  alone("second-factor");
  return new Promise((resolve) => {
    $("second-factor-back").onclick = () => resolve(null);
    form.onsubmit = async (event) => {
      event.preventDefault();
      try {
        resolve(await show(form.elements.code.value));
      } catch (error) {
        $("second-factor-problem").textContent = error.message;
        form.elements.code.select();
      }
    };
  });
}

// The session that a sign-in goes on to by a code, or null.
export const secondFactor = (challenge) => asked((code) => post("/v1/auth/factor", { challenge, code }));

// Does what the tenant demands before anything else: whether the session may go on.
export async function satisfy(token) {
  const answer = await fetch("/v1/factor", { headers: { authorization: `Bearer ${token}` } }).catch(() => null);
  const state = answer?.ok ? await answer.json() : {};
  if (!state.required) return true;
  if (state.enrolled_at) return (await asked((code) => post("/v1/factor/prove", { code }, token))) !== null;
  await enrol(token);
  return true;
}

// Sets up an authenticator for the session's user, and returns when its recovery codes are kept.
async function enrol(token) {
  const form = $("enrolment");
  const { secret, uri } = await post("/v1/factor/enrol", {}, token);
  $("enrolment-uri").href = uri;
  $("enrolment-secret").textContent = secret.match(/.{1,4}/g).join(" ");
  form.reset();
  alone("enrolment");
  const codes = await new Promise((resolve) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      try {
        resolve((await post("/v1/factor/confirm", { code: form.elements.code.value }, token)).recovery_codes);
      } catch (error) {
        $("enrolment-problem").textContent = error.message;
      }
    };
  });
  $("enrolment-secret").textContent = "";
  $("recovery-codes").replaceChildren(
    ...codes.map((code) => Object.assign(document.createElement("li"), { textContent: code })),
  );
  alone("recovery");
  await new Promise((resolve) => ($("recovery-kept").onclick = resolve));
  $("recovery-codes").replaceChildren();
}

// A link for each identity provider.
export async function showProviders() {
  const answer = await fetch("/v1/providers");
  if (!answer.ok) return;
  const { items } = await answer.json();
  $("providers").replaceChildren(
    ...items.map(({ label, start }) => {
      const link = Object.assign(document.createElement("a"), { href: start, textContent: `Sign in with ${label}` });
      const item = document.createElement("li");
      item.append(link);
      return item;
    }),
  );
}

const PROBLEMS = {
  permission_denied: "The provider did not sign you in, or your account there gives you no access here.",
  conflict: "Your address has an account here already. Sign in with its password.",
  unauthenticated: "The sign-in took too long, or was not valid. Begin again.",
  rate_limited: "There were too many sign-ins from here. Try again in a while.",
  backend_unavailable: "The identity provider cannot be reached. Try again later.",
};

export const providerProblem = (reason) => PROBLEMS[reason] ?? "The sign-in failed. Begin again.";

export const isChallenge = (error) => error instanceof Fault && error.reason === "second_factor_required";
