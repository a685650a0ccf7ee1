//! Where clients find the server: what every PV says for all its life.
//!
//! A Service is asked for its address when a PV is made, and not once for all: one that was made
//! anew has another address. What it said is believed for some seconds, so that a thousand claims
//! do not ask a thousand times.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::call;
use super::error::{Error, Result};
use super::objects::Address;

/// How long an answer is believed.
const FRESH: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Where {
    /// There.
    Fixed(String),
    /// Where this Service is.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Finds the server.
pub struct Server {
    at: Where,
    /// The port that the server itself listens on.
    port: u16,
    known: Mutex<Option<(Instant, Address)>>,
    /// When an answer came last to somebody who can do without. Locked while one is waited for.
    tried: tokio::sync::Mutex<Option<Instant>>,
}

impl Server {
    /// A server that is to be found there.
    pub fn new(at: Where, port: u16) -> Self {
        Self { at, port, known: Mutex::default(), tried: tokio::sync::Mutex::default() }
    }

    /// The address that it has or had, if that is known: to tell PVs of this server from others'.
    /// While the API server says nothing, one call waits for it, and not one for each PV.
    pub async fn known(&self, client: &Client) -> Option<Address> {
        if matches!(self.at, Where::Fixed(_)) {
            return self.address(client).await.ok();
        }
        if let Some(address) = self.last() {
            return Some(address);
        }
        let mut tried = self.tried.lock().await;
        if tried.is_some_and(|at| at.elapsed() < FRESH) {
            return self.last();
        }
        let found = self.address(client).await.ok();
        // After the call, which may take longer than what it says is believed.
        *tried = Some(Instant::now());
        found
    }

    fn last(&self) -> Option<Address> {
        let known = self.known.lock();
        known.as_ref().map(|(_, address)| address.clone())
    }

    /// The address of this moment.
    ///
    /// # Errors
    /// The Service is not there, or has no address yet; the API server cannot be asked.
    pub async fn address(&self, client: &Client) -> Result<Address> {
        let (namespace, name) = match &self.at {
            Where::Fixed(server) => {
                return Ok(Address { server: server.clone(), port: self.port });
            }
            Where::Service { namespace, name } => (namespace, name),
        };
        if let Some((at, address)) = &*self.known.lock()
            && at.elapsed() < FRESH
        {
            return Ok(address.clone());
        }
        let api = Api::<Service>::namespaced(client.clone(), namespace);
        let found = call(format!("get Service {namespace}/{name}"), api.get_opt(name)).await?;
        let waiting = |why| Error::Waiting(format!("Service {namespace}/{name} {why}"));
        let service =
            found.ok_or_else(|| waiting("is not there; create it, or use --nfs-server"))?;
        let address = address_of(&service, self.port).map_err(waiting)?;
        let known = Some((Instant::now(), address.clone()));
        *self.known.lock() = known;
        Ok(address)
    }
}

/// The address of a Service, and its port for NFS: the one that is called so, or the only one.
fn address_of(service: &Service, default: u16) -> std::result::Result<Address, &'static str> {
    let spec = service.spec.as_ref().ok_or("has no spec")?;
    let server = match spec.cluster_ip.as_deref() {
        None | Some("") => return Err("has no cluster IP yet"),
        Some("None") => return Err("is headless; it needs a cluster IP, or use --nfs-server"),
        Some(ip) => ip.to_owned(),
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref() == Some("nfs"));
    let only = if let [only] = ports { Some(only) } else { None };
    let port = named.or(only).map(|port| u16::try_from(port.port));
    let port = port.transpose().map_err(|_| "has a port that is none")?.unwrap_or(default);
    Ok(Address { server, port })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_service_has_an_address_or_a_reason() {
        let check = |spec: Value, expected: std::result::Result<(&str, u16), &str>| {
            let service: Service = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let found = address_of(&service, 7);
            let found = found.as_ref().map(|a| (a.server.as_str(), a.port)).map_err(|why| *why);
            assert_eq!(found, expected, "{spec}");
        };
        let ports = json!([{ "name": "http", "port": 80 }, { "name": "nfs", "port": 2050 }]);
        check(json!({ "clusterIP": "10.0.0.1", "ports": ports }), Ok(("10.0.0.1", 2050)));
        check(json!({ "clusterIP": "fd00::1", "ports": [{ "port": 9 }] }), Ok(("fd00::1", 9)));
        check(json!({ "clusterIP": "10.0.0.1" }), Ok(("10.0.0.1", 7)));
        check(json!({}), Err("has no cluster IP yet"));
        check(json!({ "clusterIP": "" }), Err("has no cluster IP yet"));
        let headless = "is headless; it needs a cluster IP, or use --nfs-server";
        check(json!({ "clusterIP": "None" }), Err(headless));
    }
}
