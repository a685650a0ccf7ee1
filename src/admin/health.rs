//! Whether the server is ready, checked by a call to itself.
//!
//! ```text
//!   Starting --serving--> Serving --draining--> Draining
//! ```
//!
//! While it serves, the server is ready if it replies to a NULL call over TCP to its own port: the
//! call takes the way of every other call, through the listener and a data-plane thread.
//! Simultaneous checks share one call, so frequent checks cost the data plane little.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time limit of the call.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The NULL call of NFS version 3 with its record mark (RFC 5531 §9, §11), and the reply to it.
const CALL: [u32; 11] = [0x8000_0028, XID, 0, 2, 100_003, 3, 0, 0, 0, 0, 0];
const REPLY: [u32; 7] = [0x8000_0018, XID, 1, 0, 0, 0, 0];
const XID: u32 = 0x6265_7274;

/// The phase of the server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LifePhase {
    Starting,
    Serving(SocketAddr),
    Draining,
}

/// Whether the server is ready.
#[derive(Debug)]
pub struct Health {
    phase: Mutex<LifePhase>,
    /// The last check: when it completed, and its result. Locked while a check runs.
    last: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Health {
    /// Creates the health of a server that is starting.
    pub const fn starting() -> Self {
        Self { phase: Mutex::new(LifePhase::Starting), last: tokio::sync::Mutex::const_new(None) }
    }

    /// Notes that the server serves NFS at `address`, and has loaded all that it needs for it.
    pub fn serving(&self, address: SocketAddr) {
        *self.phase() = LifePhase::Serving(address);
    }

    /// Notes that the server is stopping: from now on it is not ready.
    pub fn draining(&self) {
        *self.phase() = LifePhase::Draining;
    }

    /// Checks whether the server is ready. Takes at most about a second.
    ///
    /// # Errors
    /// The reason why it is not ready.
    pub async fn ready(&self) -> Result<(), String> {
        let address = self.address()?;
        let result = self.check(address).await;
        self.address()?; // the server may have started to stop meanwhile
        result
    }

    fn address(&self) -> Result<SocketAddr, String> {
        match *self.phase() {
            LifePhase::Starting => Err("the server is starting".into()),
            LifePhase::Serving(address) => Ok(address),
            LifePhase::Draining => Err("the server is stopping".into()),
        }
    }

    /// Makes a call, or waits for the result of the call that is being made.
    async fn check(&self, address: SocketAddr) -> Result<(), String> {
        let came = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((completed, result)) = &*last
            && *completed >= came
        {
            return result.clone();
        }
        let result = match tokio::time::timeout(TIMEOUT, null(address)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the NFS port {address} does not reply: {error}")),
            Err(_) => Err(format!("the NFS port {address} does not reply within {TIMEOUT:?}")),
        };
        *last = Some((Instant::now(), result.clone()));
        result
    }

    fn phase(&self) -> MutexGuard<'_, LifePhase> {
        self.phase.lock()
    }
}

/// Makes a NULL call.
async fn null(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(local(address)).await?;
    stream.write_all(&CALL.map(u32::to_be_bytes).concat()).await?;
    let mut reply = [0; REPLY.len() * 4];
    stream.read_exact(&mut reply).await?;
    if reply[..] == REPLY.map(u32::to_be_bytes).concat() {
        Ok(())
    } else {
        Err(io::Error::other("the reply to NULL is not a success"))
    }
}

/// The address at which this machine reaches a listener: loopback for an unspecified address.
const fn local(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Runs a test on a runtime like the control plane's, with a time limit.
    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let within = Duration::from_secs(20);
        runtime.block_on(async { tokio::time::timeout(within, test).await }).unwrap()
    }

    async fn listening() -> (TcpListener, Health) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = Health::starting();
        health.serving(listener.local_addr().unwrap());
        (listener, health)
    }

    /// Accepts one call, and replies with `reply`.
    async fn serve_one(listener: &TcpListener, reply: &[u32]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut call = [0; CALL.len() * 4];
        stream.read_exact(&mut call).await.unwrap();
        assert_eq!(call[..], CALL.map(u32::to_be_bytes).concat());
        let reply: Vec<u8> = reply.iter().flat_map(|word| word.to_be_bytes()).collect();
        stream.write_all(&reply).await.unwrap();
    }

    #[test]
    fn starting_and_stopping_are_not_ready_without_a_call() {
        run(async {
            let health = Health::starting();
            assert_eq!(health.ready().await, Err("the server is starting".into()));
            health.serving("127.0.0.1:1".parse().unwrap());
            health.draining();
            assert_eq!(health.ready().await, Err("the server is stopping".into()));
        });
    }

    #[test]
    fn only_a_successful_reply_is_ready() {
        run(async {
            let (listener, health) = listening().await;
            let (ready, ()) = tokio::join!(health.ready(), serve_one(&listener, &REPLY));
            assert_eq!(ready, Ok(()));
            let mut other = REPLY;
            other[6] = 1; // PROG_UNAVAIL
            let (ready, ()) = tokio::join!(health.ready(), serve_one(&listener, &other));
            assert!(ready.unwrap_err().contains("not a success"));
            let (ready, ()) = tokio::join!(health.ready(), serve_one(&listener, &[]));
            assert!(ready.is_err());
            drop(listener);
            assert!(health.ready().await.unwrap_err().contains("refused"));
        });
    }

    #[test]
    fn a_silent_server_is_not_ready_after_the_timeout() {
        run(async {
            let (_listener, health) = listening().await;
            let why = health.ready().await.unwrap_err();
            assert!(why.contains("within 1s"), "{why}");
        });
    }

    #[test]
    fn simultaneous_checks_share_one_call() {
        run(async {
            let (listener, health) = listening().await;
            let check = || health.ready();
            // The listener accepts only one call; a second one would time out.
            let all = async { tokio::join!(check(), check(), check()) };
            let (all, ()) = tokio::join!(all, serve_one(&listener, &REPLY));
            assert_eq!(all, (Ok(()), Ok(()), Ok(())));
            let (later, ()) = tokio::join!(check(), serve_one(&listener, &REPLY));
            assert_eq!(later, Ok(()), "a later check makes a call of its own");
        });
    }

    #[test]
    fn a_stop_during_the_call_counts() {
        run(async {
            let (listener, health) = listening().await;
            let stop = async {
                serve_one(&listener, &REPLY).await;
                health.draining();
            };
            let (ready, ()) = tokio::join!(health.ready(), stop);
            assert_eq!(ready, Err("the server is stopping".into()));
        });
    }

    #[test]
    fn unspecified_addresses_are_reached_over_loopback() {
        let reach = |text: &str| local(text.parse().unwrap()).to_string();
        assert_eq!(reach("0.0.0.0:2049"), "127.0.0.1:2049");
        assert_eq!(reach("[::]:2049"), "[::1]:2049");
        assert_eq!(reach("10.0.0.1:1"), "10.0.0.1:1");
    }
}
