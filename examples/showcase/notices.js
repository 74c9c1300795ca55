// Replaces the page by a notice when its session has ended: in another tab, or from another device.
"use strict";

let source;

function watch() {
  source?.close();
  // A browser has six connections to a host for all tabs together: only those that are seen take one.
  if (document.hidden) return;
  source = new EventSource("/notices");
  source.addEventListener("signed-out", () => {
    source.close();
    document.removeEventListener("visibilitychange", watch);
    const title = document.createElement("h1");
    title.textContent = "You were signed out";
    const text = document.createElement("p");
    text.textContent = "This was done in another tab, or from another device.";
    const link = document.createElement("a");
    link.href = "/sign-in";
    link.className = "button";
    link.textContent = "Sign in";
    document.querySelector("header form").replaceWith(link);
    const main = document.querySelector("main");
    main.setAttribute("role", "alert");
    main.replaceChildren(title, text);
  });
}

document.addEventListener("visibilitychange", watch);
watch();
