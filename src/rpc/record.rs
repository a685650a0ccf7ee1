//! Record marking (RFC 5531 §11): bytes of a TCP stream in, records out, bounded.
//!
//! ```text
//!   4 bytes: last-fragment bit, 31 bits of length | the fragment | 4 bytes ... | the fragment
//!   '------------------------------- one record ------------------------------------------'
//! ```
//!
//! Two buffers, so that a connection which says nothing costs nothing:
//! - `scratch`, which the connections of a thread share: the socket is read into it in large
//!   pieces, and the records in it are handed out where they lie;
//! - `held`, the connection's own: the bytes of a record that is not complete. A large record (a
//!   WRITE) is read straight into it, and it is given away whole with the record. It grows with
//!   what arrives, never by what a header claims.
//!
//! The bound holds for the sum of a record's fragments, before anything is kept of them.

/// Fragments that a record may come in. Real clients send one or a few; empty ones carry nothing
/// and must not keep a connection busy for ever.
const FRAGMENTS_MAX: usize = 1024;

/// From this size on an incomplete record is read into a buffer of its own.
const LARGE: usize = 32 * 1024;

/// From this size on a record needs room in the memory budget before all of it is read.
const ADMITTED: usize = 8 * 1024;

/// A buffer of this size is kept by a connection that has nothing to keep in it: small WRITEs that
/// come in a row are seldom cut where a record ends.
const KEPT: usize = 8 * 1024;

/// The first allocation for a large record; it doubles as bytes arrive.
const FIRST: usize = 128 * 1024;

/// The stream cannot be understood any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The record is larger than a call can be.
    #[error("a record is larger than {0} bytes")]
    TooLarge(usize),
    /// The record has too many fragments.
    #[error("a record has more than {FRAGMENTS_MAX} fragments")]
    TooManyFragments,
}

/// Whether to go on with the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Go,
    /// Keep what comes behind this record: too much waits to be answered or sent.
    Pause,
}

/// The header of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the fragment ends its record.
    pub last: bool,
    /// How many bytes follow, below 2^31.
    pub len: usize,
}

impl Header {
    /// The header in the first four of `bytes`, if they are there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = u32::from_be_bytes(*bytes.first_chunk()?);
        Some(Self { last: word >> 31 == 1, len: (word & 0x7fff_ffff) as usize })
    }

    /// The header of a record of `len` bytes in one fragment.
    pub fn whole(len: usize) -> u32 {
        0x8000_0000 | u32::try_from(len).expect("a record is smaller than 2 GiB")
    }
}

/// The bytes of a connection that are not yet a complete record.
#[derive(Debug)]
pub struct Records {
    /// Largest record, in bytes.
    max: usize,
    /// What came before: an incomplete fragment with its header.
    held: Vec<u8>,
    /// The fragments, without their headers, of a record whose last one has not come.
    joined: Vec<u8>,
    fragments: usize,
    /// Whether the last record was a large one.
    large: bool,
    /// Records that were given out.
    given: u64,
}

impl Records {
    /// For records of at most `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self { max, held: Vec::new(), joined: Vec::new(), fragments: 0, large: false, given: 0 }
    }

    /// How many records were given out.
    pub const fn given(&self) -> u64 {
        self.given
    }

    /// The memory that is held, in bytes.
    pub const fn capacity(&self) -> usize {
        self.held.capacity() + self.joined.capacity()
    }

    /// The memory that the record which has begun may need in the end, if it is large; else 0. Not
    /// to be asked after a pause, when complete records may be held.
    pub fn needs(&self) -> usize {
        let fragment = Header::parse(&self.held).map_or(0, |header| 4 + header.len);
        let known = self.joined.len() + fragment;
        match self.fragments {
            _ if known <= ADMITTED => 0,
            0 => known,
            _ => self.max.max(known), // how many fragments follow is not known
        }
    }

    /// Whether a record has begun and is not complete.
    pub const fn inside(&self) -> bool {
        !self.held.is_empty() || self.fragments > 0
    }

    /// How much to read into the scratch buffer. Behind a large record, mostly another one comes:
    /// then its header and a little more will do, because what is read there is copied.
    pub const fn appetite(&self) -> usize {
        if self.large { LARGE / 2 } else { usize::MAX }
    }

    /// How many bytes the record that has begun still needs, if it is one of the large kind, which
    /// is read into [`Records::room`]; others go through the scratch buffer.
    fn wanted(&self) -> Option<usize> {
        let header = Header::parse(&self.held)?;
        let whole = 4 + header.len;
        (whole >= LARGE && self.held.len() < whole).then(|| whole - self.held.len())
    }

    /// Where the next bytes of a large record go: its own buffer and how many may be appended.
    /// `None`: read into the scratch buffer, behind [`Records::begin`].
    pub fn room(&mut self, fresh: impl FnOnce() -> Vec<u8>) -> Option<(&mut Vec<u8>, usize)> {
        let wanted = self.wanted()?;
        if self.held.capacity() < LARGE {
            let mut own = fresh();
            own.clear();
            own.extend_from_slice(&self.held);
            self.held = own;
        }
        if self.held.capacity() == self.held.len() {
            self.held.reserve_exact(wanted.min(self.held.len().max(FIRST)));
        }
        let free = self.held.capacity() - self.held.len();
        Some((&mut self.held, wanted.min(free)))
    }

    /// The record that [`Records::room`] was filled with, once it is complete.
    pub fn completed(&mut self) -> Option<Vec<u8>> {
        let header = Header::parse(&self.held)?;
        let complete = self.held.len() >= LARGE && self.held.len() == 4 + header.len;
        self.large = complete && header.last && self.fragments == 0;
        self.given += u64::from(self.large);
        self.large.then(|| std::mem::take(&mut self.held))
    }

    /// Moves what is held to the start of `scratch`; answers how many bytes that was. Called before
    /// the scratch buffer is read into, and [`Records::feed`] after, whether bytes came or not.
    pub fn begin(&mut self, scratch: &mut [u8]) -> usize {
        let len = self.held.len();
        scratch[..len].copy_from_slice(&self.held);
        self.held.clear();
        if self.held.capacity() > KEPT {
            self.held = Vec::new();
        }
        len
    }

    /// Takes the records out of `bytes` and gives them to `each`, until that says
    /// [`Flow::Pause`]; keeps what is left over.
    ///
    /// # Errors
    /// The stream makes no sense from here on: the connection must be closed. Records before that
    /// place were given out.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Flow,
    ) -> Result<Flow, Error> {
        let mut flow = Flow::Go;
        while flow == Flow::Go
            && let Some(header) = Header::parse(bytes)
        {
            if self.joined.len() + header.len > self.max {
                return Err(Error::TooLarge(self.max));
            }
            let Some((fragment, rest)) = bytes[4..].split_at_checked(header.len) else { break };
            flow = self.fragment(fragment, header.last, &mut each)?;
            bytes = rest;
        }
        self.held.extend_from_slice(bytes);
        Ok(flow)
    }

    /// Goes on with what is held: after a pause, or when [`Records::room`] was filled with a
    /// fragment that [`Records::completed`] did not give out, being one of several.
    ///
    /// # Errors
    /// As [`Records::feed`].
    pub fn resume(&mut self, each: impl FnMut(&[u8]) -> Flow) -> Result<Flow, Error> {
        if self.wanted().is_some() {
            return Ok(Flow::Go);
        }
        let held = std::mem::take(&mut self.held);
        self.feed(&held, each)
    }

    fn fragment(
        &mut self,
        fragment: &[u8],
        last: bool,
        each: &mut impl FnMut(&[u8]) -> Flow,
    ) -> Result<Flow, Error> {
        self.large = false;
        if last && self.fragments == 0 {
            self.given += 1;
            return Ok(each(fragment)); // nearly always: the record lies in one piece
        }
        self.fragments += 1;
        if self.fragments > FRAGMENTS_MAX {
            return Err(Error::TooManyFragments);
        }
        self.joined.extend_from_slice(fragment);
        if !last {
            return Ok(Flow::Go);
        }
        self.fragments = 0;
        self.given += 1;
        Ok(each(&std::mem::take(&mut self.joined)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 200 * 1024;

    /// A record of `len` bytes, in fragments of at most `piece`.
    fn marked(len: usize, piece: usize) -> (Vec<u8>, Vec<u8>) {
        let record: Vec<u8> = (0..len).map(|i| ((i * 7 + len) % 251).try_into().unwrap()).collect();
        let mut stream = Vec::new();
        let mut pieces = record.chunks(piece.max(1)).peekable();
        if pieces.peek().is_none() {
            stream.extend(Header::whole(0).to_be_bytes());
        }
        while let Some(fragment) = pieces.next() {
            let whole = Header::whole(fragment.len());
            let header = if pieces.peek().is_some() { whole & 0x7fff_ffff } else { whole };
            stream.extend(header.to_be_bytes());
            stream.extend(fragment);
        }
        (record, stream)
    }

    /// What a connection does: reads `stream` in pieces of `sizes`, pausing after each record if
    /// `pauses`; answers the records.
    fn read(stream: &[u8], sizes: &[usize], pauses: bool) -> Result<Vec<Vec<u8>>, Error> {
        let mut records = Records::new(MAX);
        let mut scratch = vec![0; 64 * 1024];
        let (mut found, mut rest) = (Vec::new(), stream);
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let size = *sizes.next().unwrap();
            let mut flow = if let Some((own, want)) = records.room(Vec::new) {
                let (now, later) = rest.split_at(size.min(want).min(rest.len()));
                own.extend(now);
                rest = later;
                found.extend(records.completed().map(|own| own[4..].to_vec()));
                Flow::Pause
            } else {
                let at = records.begin(&mut scratch);
                let n = size.min(scratch.len() - at).min(rest.len());
                let (now, later) = rest.split_at(n);
                scratch[at..at + n].copy_from_slice(now);
                rest = later;
                records.feed(&scratch[..at + n], |r| keep(&mut found, r, pauses))?
            };
            while flow == Flow::Pause {
                flow = records.resume(|r| keep(&mut found, r, pauses))?;
            }
        }
        assert!(!records.inside(), "bytes were left over");
        Ok(found)
    }

    fn keep(found: &mut Vec<Vec<u8>>, record: &[u8], pauses: bool) -> Flow {
        found.push(record.to_vec());
        if pauses { Flow::Pause } else { Flow::Go }
    }

    #[test]
    fn a_record_above_the_bound_is_refused_by_its_header_alone() {
        let mut records = Records::new(MAX);
        let header = Header::whole(MAX + 1).to_be_bytes();
        assert_eq!(records.feed(&header, |_| Flow::Go), Err(Error::TooLarge(MAX)));
    }

    #[test]
    fn the_bound_holds_for_the_sum_of_fragments() {
        let (_, stream) = marked(MAX + 1, MAX / 3);
        assert_eq!(read(&stream, &[50_000], false), Err(Error::TooLarge(MAX)));
    }

    #[test]
    fn empty_fragments_do_not_go_on_for_ever() {
        let stream = vec![0; 4 * (FRAGMENTS_MAX + 1)];
        assert_eq!(read(&stream, &[50_000], false), Err(Error::TooManyFragments));
    }

    #[test]
    fn a_claimed_length_allocates_little_until_bytes_come() {
        let mut records = Records::new(1 << 30);
        let header = Header::whole(1 << 30).to_be_bytes();
        assert_eq!(records.feed(&header, |_| Flow::Go), Ok(Flow::Go));
        let (own, _) = records.room(Vec::new).unwrap();
        assert!(own.capacity() <= 2 * FIRST, "{} bytes", own.capacity());
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in_however_they_are_cut(
            shapes in prop::collection::vec((0usize..100_000, 700usize..80_000), 1..8),
            sizes in prop::collection::vec(1usize..70_000, 1..6),
            pauses: bool,
        ) {
            let sizes: Vec<_> = sizes.into_iter().map(|n| n.max(40)).collect();
            let (records, streams): (Vec<_>, Vec<_>) =
                shapes.iter().map(|&(len, piece)| marked(len, piece)).unzip();
            prop_assert_eq!(read(&streams.concat(), &sizes, pauses), Ok(records));
        }

        #[test]
        fn arbitrary_bytes_never_hold_more_than_the_bound(
            stream in prop::collection::vec(any::<u8>(), 0..4096),
        ) {
            let mut records = Records::new(1024);
            let _ = records.feed(&stream, |r| {
                assert!(r.len() <= 1024);
                Flow::Go
            });
            prop_assert!(records.joined.len() <= 1024);
        }
    }
}
