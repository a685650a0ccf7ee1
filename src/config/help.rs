//! Examples that stand below the options in the help, and what options do not say.

/// Below `berth --help`.
pub const HELP: &str = "\
Try it:
  berth serve ./data                        says how to mount it
  berth serve --volumes ./volumes           in another terminal then:
  berth volume create demo --capacity 1Gi   df on a client shows 1 GiB

`berth serve --help` has the options for networks and for Kubernetes, `berth manual` the manual.";

/// Below `berth serve --help`.
pub const SERVE_HELP: &str = "\
Examples:
  berth serve ./data                         this machine only; makes the folder
  berth serve /srv/data --listen 0.0.0.0:2049 --listen [::]:2049
  berth serve --volumes /srv/volumes --listen 0.0.0.0:2049
  berth serve --volumes /srv/volumes --listen 0.0.0.0:2049 --provisioner example.org/berth \\
      --nfs-service storage/berth
  berth serve --exports /etc/exports --listen 0.0.0.0:2049 --portmap 0.0.0.0

Signals: SIGHUP reads the exports file again; SIGTERM and SIGINT answer what was asked, then stop.
RUST_LOG sets the detail of the log (error, warn, info, debug, trace).";

/// Below `berth health --help`.
pub const HEALTH_HELP: &str = "\
Examples:
  berth health                          for HEALTHCHECK of a container
  berth health --nfs 10.0.0.5:2049
  berth health --admin-socket /run/berth/admin.sock";
