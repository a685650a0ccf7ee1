//! The address of the server, which every PV keeps for life.
//!
//! The address of a Service is looked up whenever a PV is made, because a Service that was deleted
//! and created again has another one. It is cached for some seconds: many claims at a time cause
//! one request.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::call::call;
use super::error::{Error, Result};
use super::objects::NfsAddress;

/// How long the address of a Service is cached.
const FRESH: Duration = Duration::from_secs(10);

/// Where the address comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressSource {
    /// This host name or address.
    Fixed(String),
    /// The cluster IP of this Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Finds the address that PVs have.
pub struct AddressResolver {
    source: AddressSource,
    /// The port that the server itself listens on.
    port: u16,
    known: Mutex<Option<(Instant, NfsAddress)>>,
    /// When [`Self::last_known`] made its last request. Locked during the request.
    tried: tokio::sync::Mutex<Option<Instant>>,
}

impl AddressResolver {
    /// Returns a resolver for a server that listens on `port`.
    pub fn new(source: AddressSource, port: u16) -> Self {
        Self { source, port, known: Mutex::default(), tried: tokio::sync::Mutex::default() }
    }

    /// Returns the address that the server has or had last; `None` if it is not known. It is enough
    /// to recognize PVs of this server. While the API server does not respond, one request waits,
    /// and not one for each PV.
    pub async fn last_known(&self, client: &Client) -> Option<NfsAddress> {
        if matches!(self.source, AddressSource::Fixed(_)) {
            return self.current(client).await.ok();
        }
        if let Some(address) = self.last() {
            return Some(address);
        }
        let mut tried = self.tried.lock().await;
        if tried.is_some_and(|at| at.elapsed() < FRESH) {
            return self.last();
        }
        let found = self.current(client).await.ok();
        // After the request, which may take longer than its result is cached.
        *tried = Some(Instant::now());
        found
    }

    fn last(&self) -> Option<NfsAddress> {
        let known = self.known.lock();
        known.as_ref().map(|(_, address)| address.clone())
    }

    /// Returns the current address.
    ///
    /// # Errors
    /// The Service does not exist or has no address yet; the API server cannot be asked.
    pub async fn current(&self, client: &Client) -> Result<NfsAddress> {
        let (namespace, name) = match &self.source {
            AddressSource::Fixed(server) => {
                return Ok(NfsAddress { server: server.clone(), port: self.port });
            }
            AddressSource::Service { namespace, name } => (namespace, name),
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
            found.ok_or_else(|| waiting("does not exist; create it, or use --nfs-server"))?;
        let address = address_of(&service, self.port).map_err(waiting)?;
        let known = Some((Instant::now(), address.clone()));
        *self.known.lock() = known;
        Ok(address)
    }
}

/// Returns the cluster IP of a Service and its port for NFS: the one named `nfs`, or the only one.
fn address_of(service: &Service, default: u16) -> std::result::Result<NfsAddress, &'static str> {
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
    let port = port.transpose().map_err(|_| "has an invalid port")?.unwrap_or(default);
    Ok(NfsAddress { server, port })
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
