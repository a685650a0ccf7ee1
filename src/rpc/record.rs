//! Record marking (RFC 5531 §11): bytes of a TCP stream in, records out, bounded.
//!
//! ```text
//!   4 bytes: last-fragment bit, 31 bits of length | the fragment | 4 bytes ... | the fragment
//!   '------------------------------- one record ------------------------------------------'
//! ```
//!
//! There are two buffers, so an idle connection holds no memory:
//! - `scratch`, which the connections of a thread share. Sockets are read into it in large pieces,
//!   and its records are passed on without a copy.
//! - `held`, which belongs to the connection and has the bytes of an incomplete record. A large
//!   record (a WRITE) is read directly into it, and the buffer is passed on with the record. It
//!   grows with the bytes that arrive, never by the length in a header.
//!
//! The bound holds for the sum of a record's fragments, and is checked before they are kept.

/// Most fragments of a record. Clients send one or a few. Empty fragments must not keep a
/// connection busy forever.
const FRAGMENTS_MAX: usize = 1024;

/// Incomplete records of at least this size, in bytes, are read into a buffer of their own.
const LARGE: usize = 32 * 1024;

/// Records larger than this, in bytes, need room in the memory budget before they are read whole.
const ADMITTED: usize = 8 * 1024;

/// A connection keeps an empty buffer of up to this size, in bytes: reads seldom end where a record
/// ends, so a series of small WRITEs would allocate it again and again.
const KEPT: usize = 8 * 1024;

/// The first allocation for a large record, in bytes. It doubles as bytes arrive.
const FIRST: usize = 128 * 1024;

/// The stream is invalid from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The record is larger than a call can be.
    #[error("a record is larger than {0} bytes")]
    TooLarge(usize),
    /// The record has too many fragments.
    #[error("a record has more than {FRAGMENTS_MAX} fragments")]
    TooManyFragments,
}

/// Whether to continue with the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Continue.
    Go,
    /// Keep the bytes behind this record: too many calls or replies are queued.
    Pause,
}

/// The header of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Whether the fragment ends its record.
    pub last: bool,
    /// How many bytes follow, below 2^31.
    pub len: usize,
}

impl FragmentHeader {
    /// Decodes the header in the first four of `bytes`. `None`: there are fewer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = u32::from_be_bytes(*bytes.first_chunk()?);
        Some(Self { last: word >> 31 == 1, len: (word & 0x7fff_ffff) as usize })
    }

    /// Returns the header of a record of `len` bytes in one fragment.
    pub fn whole(len: usize) -> u32 {
        0x8000_0000 | u32::try_from(len).expect("a record is smaller than 2 GiB")
    }
}

/// The bytes of a connection that are not yet a complete record.
#[derive(Debug)]
pub struct Records {
    /// Largest record, in bytes.
    max: usize,
    /// An incomplete fragment with its header.
    held: Vec<u8>,
    /// The fragments, without their headers, of a record whose last fragment has not arrived.
    joined: Vec<u8>,
    fragments: usize,
    /// Whether the last record was a large one.
    large: bool,
    /// Records that were passed on.
    given: u64,
}

impl Records {
    /// Starts a stream of records of at most `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self { max, held: Vec::new(), joined: Vec::new(), fragments: 0, large: false, given: 0 }
    }

    /// Returns the number of records that were passed on.
    pub const fn given(&self) -> u64 {
        self.given
    }

    /// Returns the memory that is held, in bytes.
    pub const fn capacity(&self) -> usize {
        self.held.capacity() + self.joined.capacity()
    }

    /// Returns the memory that the incomplete record may need, in bytes, or 0 if the record is
    /// small. Must not be called after a pause, when complete records may be held.
    pub fn needs(&self) -> usize {
        let fragment = FragmentHeader::parse(&self.held).map_or(0, |header| 4 + header.len);
        let known = self.joined.len() + fragment;
        match self.fragments {
            _ if known <= ADMITTED => 0,
            0 => known,
            _ => self.max.max(known), // more fragments may follow
        }
    }

    /// Whether there is an incomplete record.
    pub const fn inside(&self) -> bool {
        !self.held.is_empty() || self.fragments > 0
    }

    /// Returns the most to read into the scratch buffer, in bytes. A large record is mostly
    /// followed by another one. Its header and little more is read then, because those bytes are
    /// copied.
    pub const fn appetite(&self) -> usize {
        if self.large { LARGE / 2 } else { usize::MAX }
    }

    /// Returns how many bytes of the incomplete fragment are missing, if it is large and therefore
    /// read into [`Records::room`]. Others are read into the scratch buffer.
    fn wanted(&self) -> Option<usize> {
        let header = FragmentHeader::parse(&self.held)?;
        let whole = 4 + header.len;
        (whole >= LARGE && self.held.len() < whole).then(|| whole - self.held.len())
    }

    /// Returns the buffer of a large record, and how many bytes to append to it. `fresh` provides a
    /// new buffer. `None`: read into the scratch buffer, after [`Records::begin`].
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

    /// Returns the buffer of a large record, header included, if the record is complete.
    pub fn completed(&mut self) -> Option<Vec<u8>> {
        let header = FragmentHeader::parse(&self.held)?;
        let complete = self.held.len() >= LARGE && self.held.len() == 4 + header.len;
        self.large = complete && header.last && self.fragments == 0;
        self.given += u64::from(self.large);
        self.large.then(|| std::mem::take(&mut self.held))
    }

    /// Moves the bytes that are held to the start of `scratch`, and returns their number. Must be
    /// called before a read into the scratch buffer, and [`Records::feed`] after it, even if no
    /// bytes were read.
    pub fn begin(&mut self, scratch: &mut [u8]) -> usize {
        let len = self.held.len();
        scratch[..len].copy_from_slice(&self.held);
        self.held.clear();
        if self.held.capacity() > KEPT {
            self.held = Vec::new();
        }
        len
    }

    /// Passes the records in `bytes` to `each`, until that returns [`Flow::Pause`]. Keeps the rest.
    ///
    /// # Errors
    /// The stream is invalid and the connection must be closed. The records before the invalid one
    /// were passed on.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Flow,
    ) -> Result<Flow, Error> {
        let mut flow = Flow::Go;
        while flow == Flow::Go
            && let Some(header) = FragmentHeader::parse(bytes)
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

    /// Continues with the bytes that are held: after a pause, or when [`Records::room`] was filled
    /// and [`Records::completed`] returned nothing, because the fragment is one of several.
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
            return Ok(each(fragment)); // the common case: one fragment, no copy
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
            stream.extend(FragmentHeader::whole(0).to_be_bytes());
        }
        while let Some(fragment) = pieces.next() {
            let whole = FragmentHeader::whole(fragment.len());
            let header = if pieces.peek().is_some() { whole & 0x7fff_ffff } else { whole };
            stream.extend(header.to_be_bytes());
            stream.extend(fragment);
        }
        (record, stream)
    }

    /// Reads `stream` in pieces of `sizes`, as a connection does, and pauses after each record if
    /// `pauses`. Returns the records.
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
    fn a_record_above_the_bound_is_refused_by_its_header() {
        let mut records = Records::new(MAX);
        let header = FragmentHeader::whole(MAX + 1).to_be_bytes();
        assert_eq!(records.feed(&header, |_| Flow::Go), Err(Error::TooLarge(MAX)));
    }

    #[test]
    fn the_bound_holds_for_the_sum_of_fragments() {
        let (_, stream) = marked(MAX + 1, MAX / 3);
        assert_eq!(read(&stream, &[50_000], false), Err(Error::TooLarge(MAX)));
    }

    #[test]
    fn empty_fragments_are_bounded() {
        let stream = vec![0; 4 * (FRAGMENTS_MAX + 1)];
        assert_eq!(read(&stream, &[50_000], false), Err(Error::TooManyFragments));
    }

    #[test]
    fn memory_grows_with_the_bytes_that_arrive() {
        let mut records = Records::new(1 << 30);
        let header = FragmentHeader::whole(1 << 30).to_be_bytes();
        assert_eq!(records.feed(&header, |_| Flow::Go), Ok(Flow::Go));
        let (own, _) = records.room(Vec::new).unwrap();
        assert!(own.capacity() <= 2 * FIRST, "{} bytes", own.capacity());
    }

    proptest! {
        #[test]
        fn records_are_read_whole_however_they_are_cut(
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
