# Fairlead without Cloudflare: a configuration of workerd, the server that Workers run in.
#
#   node_modules/.bin/workerd serve examples/workerd/config.capnp
#
# CONFIG is config.json beside this file. Paths are relative to it, so that the repository can stand anywhere; but those of
# `disk` are relative to where workerd is started, which is the repository's root.

using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "fairlead", worker = .fairlead),

    # Where endpoints are asked for: public addresses, and your own networks.
    (name = "internet", network = (allow = ["public", "private"], tlsOptions = (trustBrowserCas = true))),

    # What an operator has isolated outlives a restart here.
    (name = "state", disk = (path = "state", writable = true)),

    # The dashboard's files.
    (name = "dashboard", disk = (path = "worker/dashboard")),
  ],

  # On this machine only: TLS, and whoever comes from outside, is a reverse proxy's business.
  sockets = [(name = "http", address = "127.0.0.1:8787", http = (), service = "fairlead")],
);

const fairlead :Workerd.Worker = (
  # As in wrangler.toml, whose flag goes without saying from this date on.
  compatibilityDate = "2026-11-17",

  modules = [
    (name = "index.js", esModule = embed "../../worker/build/index.js"),
    (name = "index_bg.wasm", wasm = embed "../../worker/build/index_bg.wasm"),
  ],

  bindings = [
    (name = "CONFIG", json = embed "config.json"),

    # The secrets that CONFIG names, each from the environment.
    (name = "VLLM_API_KEY", fromEnvironment = "VLLM_API_KEY"),
    (name = "ADMIN_KEY", fromEnvironment = "ADMIN_KEY"),

    (name = "ASSETS", service = "dashboard"),
    (name = "BREAKERS", durableObjectNamespace = "Breakers"),
  ],

  durableObjectNamespaces = [(className = "Breakers", uniqueKey = "fairlead-breakers", enableSql = true)],
  durableObjectStorage = (localDisk = "state"),
);
