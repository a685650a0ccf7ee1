//! Whether the server is ready: asked of itself, as a client would.
//!
//! ```text
//!   Starting --serving--> Serving --draining--> Draining
//! ```
//!
//! While it serves, a NULL call over TCP to its own port says whether it is ready: it takes the way
//! of every other call, through the listener and a data-plane thread. Those who ask at the same
//! time share one, so that asking often costs the data plane nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the server may take to answer itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// NULL of NFS version 3 with its record mark (RFC 5531 §9, §11), and what is answered.
const CALL: [u32; 11] = [0x8000_0028, XID, 0, 2, 100_003, 3, 0, 0, 0, 0, 0];
const REPLY: [u32; 7] = [0x8000_0018, XID, 1, 0, 0, 0, 0];
const XID: u32 = 0x6265_7274;

/// How far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving(SocketAddr),
    Draining,
}

/// Whether the server is ready.
#[derive(Debug)]
pub struct Health {
    phase: Mutex<Phase>,
    /// The last question and when it was answered; locked while one is asked.
    asked: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Health {
    /// Of a server that is starting.
    pub const fn starting() -> Self {
        Self { phase: Mutex::new(Phase::Starting), asked: tokio::sync::Mutex::const_new(None) }
    }

    /// It serves NFS at `address`, and everything that it needs for that is loaded.
    pub fn serving(&self, address: SocketAddr) {
        *self.phase() = Phase::Serving(address);
    }

    /// It stops: from now on it is not ready.
    pub fn draining(&self) {
        *self.phase() = Phase::Draining;
    }

    /// Whether it is ready. Takes at most about a second.
    ///
    /// # Errors
    /// Why it is not, in words.
    pub async fn ready(&self) -> Result<(), String> {
        let address = self.address()?;
        let answer = self.ask(address).await;
        self.address()?; // it may have begun to stop in the meantime
        answer
    }

    fn address(&self) -> Result<SocketAddr, String> {
        match *self.phase() {
            Phase::Starting => Err("the server is starting".into()),
            Phase::Serving(address) => Ok(address),
            Phase::Draining => Err("the server is stopping".into()),
        }
    }

    /// Calls, or takes the answer to a call that was being made when this one came.
    async fn ask(&self, address: SocketAddr) -> Result<(), String> {
        let came = Instant::now();
        let mut asked = self.asked.lock().await;
        if let Some((answered, answer)) = &*asked
            && *answered >= came
        {
            return answer.clone();
        }
        let answer = match tokio::time::timeout(PATIENCE, null(address)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the NFS port {address} does not answer: {error}")),
            Err(_) => Err(format!("the NFS port {address} does not answer within {PATIENCE:?}")),
        };
        *asked = Some((Instant::now(), answer.clone()));
        answer
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a NULL call.
async fn null(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(within_reach(address)).await?;
    stream.write_all(&CALL.map(u32::to_be_bytes).concat()).await?;
    let mut reply = [0; REPLY.len() * 4];
    stream.read_exact(&mut reply).await?;
    if reply[..] == REPLY.map(u32::to_be_bytes).concat() {
        Ok(())
    } else {
        Err(io::Error::other("what it says is no answer to NULL"))
    }
}

/// Where an address can be called from this machine.
const fn within_reach(address: SocketAddr) -> SocketAddr {
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

    /// Runs on a runtime like the control plane's; a call that does not come is a failure.
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

    /// Takes one call and answers it with `reply`.
    async fn answer(listener: &TcpListener, reply: &[u32]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut call = [0; CALL.len() * 4];
        stream.read_exact(&mut call).await.unwrap();
        assert_eq!(call[..], CALL.map(u32::to_be_bytes).concat());
        let reply: Vec<u8> = reply.iter().flat_map(|word| word.to_be_bytes()).collect();
        stream.write_all(&reply).await.unwrap();
    }

    #[test]
    fn nothing_is_asked_while_starting_and_stopping() {
        run(async {
            let health = Health::starting();
            assert_eq!(health.ready().await, Err("the server is starting".into()));
            health.serving("127.0.0.1:1".parse().unwrap());
            health.draining();
            assert_eq!(health.ready().await, Err("the server is stopping".into()));
        });
    }

    #[test]
    fn an_answer_makes_ready_and_anything_else_does_not() {
        run(async {
            let (listener, health) = listening().await;
            let (ready, ()) = tokio::join!(health.ready(), answer(&listener, &REPLY));
            assert_eq!(ready, Ok(()));
            let mut other = REPLY;
            other[6] = 1; // PROG_UNAVAIL
            let (ready, ()) = tokio::join!(health.ready(), answer(&listener, &other));
            assert!(ready.unwrap_err().contains("no answer to NULL"));
            let (ready, ()) = tokio::join!(health.ready(), answer(&listener, &[]));
            assert!(ready.is_err());
            drop(listener);
            assert!(health.ready().await.unwrap_err().contains("refused"));
        });
    }

    #[test]
    fn silence_is_not_waited_for() {
        run(async {
            let (_listener, health) = listening().await;
            let why = health.ready().await.unwrap_err();
            assert!(why.contains("within 1s"), "{why}");
        });
    }

    #[test]
    fn those_who_ask_at_the_same_time_share_a_call() {
        run(async {
            let (listener, health) = listening().await;
            let ask = || health.ready();
            // A second call would find nobody who takes it, and wait until it is too late.
            let all = async { tokio::join!(ask(), ask(), ask()) };
            let (all, ()) = tokio::join!(all, answer(&listener, &REPLY));
            assert_eq!(all, (Ok(()), Ok(()), Ok(())));
            let (later, ()) = tokio::join!(ask(), answer(&listener, &REPLY));
            assert_eq!(later, Ok(()), "an answer is not used again later");
        });
    }

    #[test]
    fn the_end_counts_even_if_the_answer_is_on_its_way() {
        run(async {
            let (listener, health) = listening().await;
            let stop = async {
                answer(&listener, &REPLY).await;
                health.draining();
            };
            let (ready, ()) = tokio::join!(health.ready(), stop);
            assert_eq!(ready, Err("the server is stopping".into()));
        });
    }

    #[test]
    fn every_address_can_be_called() {
        let reach = |text: &str| within_reach(text.parse().unwrap()).to_string();
        assert_eq!(reach("0.0.0.0:2049"), "127.0.0.1:2049");
        assert_eq!(reach("[::]:2049"), "[::1]:2049");
        assert_eq!(reach("10.0.0.1:1"), "10.0.0.1:1");
    }
}
