// The API reference: Swagger UI over this pool's own document, with the token of the bar in every request.

const tokenField = document.getElementById("token");

/** The pool's URL as this browser sees it, behind whatever proxies and mounts there are; without a trailing slash. */
export const base = new URL(".", location.href).href.replace(/\/$/, "");

export const token = () => tokenField.value.trim();

function applyTheme(dark) {
  document.documentElement.classList.toggle("dark-mode", dark);
}

function followTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  applyTheme(system.matches);
  system.addEventListener("change", () => chosen ?? applyTheme(system.matches));
  document.getElementById("theme").addEventListener("click", () => {
    chosen = !document.documentElement.classList.contains("dark-mode");
    applyTheme(chosen);
  });
}

// A WebSocket cannot be tried out with a plain request; the live panel is for that.
const WithoutSockets = () => ({
  statePlugins: {
    spec: {
      wrapSelectors: {
        allowTryItOutFor: (original, system) => (state, path, method) =>
          !system.specSelectors.specJson().getIn(["paths", path, method, "x-websocket"]) && original(path, method),
      },
    },
  },
});

function useToken(ui) {
  if (token()) ui.preauthorizeApiKey("teamToken", token());
  else ui.authActions.logout(["teamToken"]);
}

function show(spec) {
  spec.servers = [{ url: base }];
  document.title = spec.info.title;
  const ui = window.SwaggerUIBundle({
    spec,
    domNode: document.getElementById("reference"),
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    docExpansion: "list",
    filter: true,
    persistAuthorization: false,
    plugins: [WithoutSockets],
    presets: [window.SwaggerUIBundle.presets.apis],
    tryItOutEnabled: true,
    validatorUrl: null,
    onComplete: () => {
      tokenField.addEventListener("input", () => useToken(ui));
      if (token()) useToken(ui);
      if (location.hash === "#live") document.getElementById("live").scrollIntoView();
    },
  });
}

async function load() {
  followTheme();
  try {
    const answer = await fetch("openapi.json");
    if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    const problem = document.getElementById("problem");
    problem.textContent = `The API document could not be loaded. ${error.message}`;
    problem.hidden = false;
  }
}

load();
