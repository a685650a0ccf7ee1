//! The texts below the options in the help: examples, and notes that concern no single option.

/// Below `berth --help`.
pub const HELP: &str = "\
Examples:
  berth serve ./data                        serves this directory, and prints how to mount it
  berth serve --volumes ./volumes           serves volumes; then, in another terminal:
  berth volume create demo --capacity 1Gi   creates a volume; df on a client shows 1 GiB

`berth serve --help` has the options for networks and Kubernetes, `berth manual` the manual.";

/// Below `berth serve --help`.
pub const SERVE_HELP: &str = "\
Examples:
  berth serve ./data                         to this machine only; creates the directory
  berth serve /srv/data --listen 0.0.0.0:2049 --listen [::]:2049
  berth serve --volumes /srv/volumes --listen 0.0.0.0:2049
  berth serve --volumes /srv/volumes --listen 0.0.0.0:2049 --provisioner example.org/berth \\
      --nfs-service storage/berth
  berth serve --exports /etc/exports --listen 0.0.0.0:2049 --portmap 0.0.0.0

SIGHUP reads the exports file again. SIGTERM and SIGINT finish the calls in progress, and stop.
RUST_LOG sets the level of the log (error, warn, info, debug, trace).";

/// Below `berth health --help`.
pub const HEALTH_HELP: &str = "\
Examples:
  berth health                          for the HEALTHCHECK of a container
  berth health --nfs 10.0.0.5:2049
  berth health --admin-socket /run/berth/admin.sock";
