// The second factor: its code at sign-in, and setting one up where the tenant demands it.

import { Fault, post } from "./hub.js";

const $ = (id) => document.getElementById(id);

function alone(id) {
  for (const part of ["sign-in", "second-factor", "enrolment", "recovery", "workplace"]) $(part).hidden = part !== id;
  $(id).querySelector("input, button")?.focus();
}

// Asks for codes until one is right; the session, or null when the sign-in is given up or over.
export function secondFactor(challenge) {
  const form = $("second-factor");
  form.reset();
  $("second-factor-problem").textContent = "";
  alone("second-factor");
  return new Promise((resolve) => {
    $("second-factor-back").onclick = () => resolve(null);
    form.onsubmit = async (event) => {
      event.preventDefault();
      try {
        resolve(await post("/v1/auth/factor", { challenge, code: form.elements.code.value }));
      } catch (error) {
        $("second-factor-problem").textContent = error.message;
        form.elements.code.select();
      }
    };
  });
}

// Sets up an authenticator for the session's user, and returns when its recovery codes are kept.
export async function enrol(token) {
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

// Whether this user may do nothing yet but set up a second factor.
export async function mustEnrol(token) {
  const answer = await fetch("/v1/factor", { headers: { authorization: `Bearer ${token}` } });
  return answer.ok && (await answer.json()).required;
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
