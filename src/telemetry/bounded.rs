//! A bound on the log lines that peers can cause.
//!
//! A line counts if its event has a field `peer`, or is named [`OFTEN`] because the address is not
//! known where it is written. Its kind is its place in the source. Of each kind, an address may
//! cause [`PER_ADDRESS`] lines within a [`WINDOW`], and all addresses together [`PER_KIND`]; what
//! is beyond is counted instead, and told in one line for each of the addresses that had most, and
//! one for all others ([`Limiter::tell`]). Lines of the levels debug and trace are not bounded: an
//! administrator who asks for them wants every one.
//!
//! The limiter itself keeps at most [`ADDRESSES`] addresses for each kind. IPv6 addresses count by
//! their network of 64 bits, because a host has a whole one of them.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The name of events that peers can cause, and that know no address: `warn!(name: OFTEN, ...)`.
pub const OFTEN: &str = "often";

/// The name of the events that say what was left out.
const LEFT_OUT: &str = "left out";

/// Lines of one kind that one address may cause within a window.
const PER_ADDRESS: u32 = 10;

/// Lines of one kind that all addresses together may cause within a window.
const PER_KIND: u32 = 100;

/// How long lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);

/// Addresses that are told apart within a window.
const ADDRESSES: usize = 256;

/// Addresses that are named when it is told what was left out.
const NAMED: usize = 5;

/// Reports that wait to be told.
const REPORTS: usize = 64;

/// Characters of a line's message that are kept.
const MESSAGE_MAX: usize = 80;

/// Bytes of a path or a name that are shown ([`Cut`]).
const SHOWN_MAX: usize = 128;

/// Bytes of a peer as text, cut to a bounded length.
pub struct Cut<'a>(pub &'a [u8]);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(SHOWN_MAX) {
            Some((shown, rest)) if !rest.is_empty() => {
                write!(f, "{}... ({} bytes)", shown.escape_ascii(), self.0.len())
            }
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

/// What was seen of each kind of line.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    kinds: HashMap<Identifier, Kind>,
    reports: Vec<Report>,
}

/// The lines of one place in the source in the current window.
#[derive(Debug)]
struct Kind {
    message: String,
    since: Instant,
    lines: u32,
    addresses: HashMap<Option<IpAddr>, Count>,
    /// Left out of addresses that are not told apart.
    others: u64,
}

/// The lines of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    written: u32,
    left_out: u64,
}

/// Lines that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    message: String,
    /// Whose; `None` for several.
    peer: Option<IpAddr>,
    lines: u64,
}

impl Limiter {
    /// Says what was left out in the windows that are over. To be called about once a second.
    pub fn tell(&self) {
        self.tell_at(Instant::now());
    }

    /// Says what was left out until now: the last word.
    pub fn tell_all(&self) {
        self.tell_at(Instant::now() + WINDOW);
    }

    fn tell_at(&self, now: Instant) {
        for Report { message, peer, lines } in self.due(now) {
            let peer = peer.map_or_else(|| "others".to_owned(), |peer| peer.to_string());
            tracing::warn!(
                name: LEFT_OUT, left_out = lines, line = message, %peer, "lines were left out of the log"
            );
        }
    }

    fn due(&self, now: Instant) -> Vec<Report> {
        let mut seen = self.seen();
        let Seen { kinds, reports } = &mut *seen;
        for kind in kinds.values_mut().filter(|kind| kind.is_over(now)) {
            kind.begin_anew(now, reports);
        }
        std::mem::take(reports)
    }

    /// Whether an event may be written.
    fn admits(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if !is_bounded(metadata) {
            return true;
        }
        let mut facts = Facts::default();
        event.record(&mut facts);
        self.admit(metadata.callsite(), facts, Instant::now())
    }

    fn admit(&self, place: Identifier, facts: Facts, now: Instant) -> bool {
        let mut seen = self.seen();
        let Seen { kinds, reports } = &mut *seen;
        let kind = kinds.entry(place).or_insert_with(|| Kind {
            message: facts.message.chars().take(MESSAGE_MAX).collect(),
            since: now,
            lines: 0,
            addresses: HashMap::new(),
            others: 0,
        });
        if kind.is_over(now) {
            kind.begin_anew(now, reports);
        }
        kind.admit(facts.peer)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Numbers for people: a panic spoils nothing.
        self.0.lock()
    }
}

impl Kind {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= WINDOW
    }

    fn admit(&mut self, peer: Option<IpAddr>) -> bool {
        if self.addresses.len() == ADDRESSES && !self.addresses.contains_key(&peer) {
            self.others += 1;
            return false;
        }
        let count = self.addresses.entry(peer).or_default();
        // Without an address there is only the bound for all.
        let own = if peer.is_some() { PER_ADDRESS } else { PER_KIND };
        let admitted = count.written < own && self.lines < PER_KIND;
        if admitted {
            count.written += 1;
            self.lines += 1;
        } else {
            count.left_out += 1;
        }
        admitted
    }

    /// Ends the window, and begins another one.
    fn begin_anew(&mut self, now: Instant, reports: &mut Vec<Report>) {
        self.since = now;
        self.lines = 0;
        let mut left_out: Vec<_> =
            self.addresses.drain().filter(|(_, count)| count.left_out > 0).collect();
        left_out.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(count.left_out));
        let rest = left_out.split_off(left_out.len().min(NAMED));
        let rest = rest.iter().map(|(_, count)| count.left_out).sum::<u64>();
        let others = std::mem::take(&mut self.others) + rest;
        let named = left_out.into_iter().map(|(peer, count)| (peer, count.left_out));
        for (peer, lines) in named.chain((others > 0).then_some((None, others))) {
            if reports.len() < REPORTS {
                reports.push(Report { message: self.message.clone(), peer, lines });
            }
        }
    }
}

fn is_bounded(metadata: &Metadata<'_>) -> bool {
    let is_asked_for = *metadata.level() > Level::INFO;
    let is_caused = metadata.name() == OFTEN || metadata.fields().field("peer").is_some();
    !is_asked_for && is_caused && metadata.name() != LEFT_OUT
}

/// What an event says of who caused it.
#[derive(Debug, Default)]
struct Facts {
    peer: Option<IpAddr>,
    message: String,
}

impl Visit for Facts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "peer" => self.peer = address(&format!("{value:?}")),
            "message" => self.message = format!("{value:?}"),
            _ => {}
        }
    }
}

/// The address of a peer, as it counts.
fn address(text: &str) -> Option<IpAddr> {
    let socket = text.parse().map(|address: SocketAddr| address.ip());
    Some(network(socket.or_else(|_| text.parse()).ok()?))
}

/// What a peer counts by where there is a bound for each: its address, of IPv6 its network of 64
/// bits, of which a host can have all addresses.
pub const fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (!0 << 64))),
    }
}

/// A format that writes only what the limiter admits.
pub struct Bounded<F> {
    format: F,
    limiter: Arc<Limiter>,
}

impl<F> Bounded<F> {
    /// As `format`, within the bounds of `limiter`.
    pub const fn new(format: F, limiter: Arc<Limiter>) -> Self {
        Self { format, limiter }
    }
}

impl<S, N, F> FormatEvent<S, N> for Bounded<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.limiter.admits(event) {
            self.format.format_event(context, writer, event)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// The log of a test.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Log {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// The lines that are written while `work` runs, and the limiter that decided.
    pub fn written(work: impl FnOnce(&Limiter)) -> Vec<String> {
        let (log, limiter) = (Log::default(), Arc::new(Limiter::default()));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(log.clone())
            .with_ansi(false)
            .map_event_format(|format| Bounded::new(format, Arc::clone(&limiter)))
            .finish();
        tracing::subscriber::with_default(subscriber, || work(&limiter));
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn refused(peer: SocketAddr) {
        tracing::info!(%peer, "refused");
    }

    /// In how many lines this is.
    pub fn count(lines: &[String], what: &str) -> usize {
        lines.iter().filter(|line| line.contains(what)).count()
    }

    fn later() -> Instant {
        Instant::now() + WINDOW
    }

    #[test]
    fn an_address_causes_so_many_lines_of_a_kind_and_others_their_own() {
        let mut due = Vec::new();
        let lines = written(|limiter| {
            for n in 0..1000 {
                refused(SocketAddr::from(([10, 0, 0, 1], n))); // another port is no other address
            }
            refused("10.0.0.2:1".parse().unwrap());
            tracing::warn!(peer = %"10.0.0.1:1", "another kind");
            due = limiter.due(later());
        });
        assert_eq!(count(&lines, "peer=10.0.0.1:"), 11, "{lines:?}");
        assert_eq!(count(&lines, "peer=10.0.0.2:"), 1);
        assert_eq!(count(&lines, "another kind"), 1);
        let peer = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(due, [Report { message: "refused".into(), peer, lines: 990 }]);
    }

    #[test]
    fn what_was_left_out_is_told_once_and_the_next_window_is_open() {
        let at = |text: &str| Facts { peer: address(text), message: "m".into() };
        let place = || Identifier(&PLACE);
        let (limiter, start) = (Limiter::default(), Instant::now());
        let admitted =
            |now| (0..30).filter(|_| limiter.admit(place(), at("10.0.0.1"), now)).count();
        assert_eq!(admitted(start), 10);
        assert_eq!(limiter.due(start), [], "the window is not over");
        assert_eq!(admitted(start + WINDOW), 10, "and what the first one left out is not lost");
        assert_eq!(limiter.due(start + WINDOW)[0].lines, 20);
        assert_eq!(limiter.due(start + 2 * WINDOW)[0].lines, 20);
        assert_eq!(limiter.due(start + 3 * WINDOW), []);
    }

    #[test]
    fn many_addresses_together_have_a_bound_and_so_has_the_memory() {
        let place = || Identifier(&PLACE);
        let (limiter, now) = (Limiter::default(), Instant::now());
        let mut admitted = 0;
        for n in 0..100_000_u32 {
            let facts = Facts { peer: Some(IpAddr::from(n.to_be_bytes())), message: "m".into() };
            admitted += u32::from(limiter.admit(place(), facts, now));
        }
        assert_eq!(admitted, PER_KIND);
        assert_eq!(
            limiter.seen().kinds.values().map(|kind| kind.addresses.len()).sum::<usize>(),
            256
        );
        let due = limiter.due(now + WINDOW);
        assert_eq!(due.len(), NAMED + 1);
        assert_eq!(due.iter().map(|report| report.lines).sum::<u64>(), 99_900);
        assert!(limiter.seen().kinds.values().all(|kind| kind.addresses.is_empty()));
        for n in 1..1000 {
            for _ in 0..20 {
                limiter.admit(place(), Facts::default(), now + WINDOW * n);
            }
        }
        assert!(limiter.seen().reports.len() <= REPORTS);
    }

    #[test]
    fn only_what_peers_cause_is_bounded() {
        let lines = written(|limiter| {
            for n in 0..500 {
                tracing::info!(n, "of our own");
                tracing::debug!(peer = %"10.0.0.1:1", "asked for");
                tracing::warn!(name: OFTEN, "of whomever");
            }
            limiter.tell_all();
        });
        assert_eq!(count(&lines, "of our own"), 500);
        assert_eq!(count(&lines, "asked for"), 500);
        assert_eq!(count(&lines, "of whomever"), 101, "and one that says how many are missing");
        assert_eq!(count(&lines, "left_out=400"), 1);
    }

    #[test]
    fn addresses_count_by_what_a_host_has_of_them() {
        let check = |text: &str, expected: &str| {
            assert_eq!(address(text), Some(expected.parse().unwrap()), "{text}");
        };
        check("10.0.0.1:700", "10.0.0.1");
        check("10.0.0.1", "10.0.0.1");
        check("[::ffff:10.0.0.1]:700", "10.0.0.1");
        check("[fd00:1:2:3:4:5:6:7]:700", "fd00:1:2:3::");
        check("fd00:1:2:3:4:5:6:7", "fd00:1:2:3::");
        assert_eq!(address("somebody"), None);
    }

    #[test]
    fn long_bytes_are_cut() {
        assert_eq!(Cut(b"/a\n").to_string(), "/a\\n");
        assert_eq!(Cut(&[b'x'; SHOWN_MAX]).to_string().len(), SHOWN_MAX);
        let cut = Cut(&[1; 1000]).to_string();
        assert!(cut.ends_with("\\x01... (1000 bytes)") && cut.len() < 5 * SHOWN_MAX, "{cut}");
    }

    /// A place in the source.
    struct Place;

    static PLACE: Place = Place;

    impl tracing::Callsite for Place {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nobody asks")
        }
    }
}
