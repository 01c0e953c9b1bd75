//! The encoding of Nix's worker protocol: little-endian numbers of eight bytes, and strings with their length before
//! them and zero padding to a multiple of eight. A list is its length, then its items.
//!
//! Rule: a length from the other side is first compared with a limit, and memory is allocated only for bytes that have
//! arrived.

use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// First number from a client.
pub const CLIENT_MAGIC: u64 = 0x6e69_7863;
/// First number from a daemon.
pub const DAEMON_MAGIC: u64 = 0x6478_696f;

/// The only protocol version spoken with daemons and guests: that of Nix 2.18 and Lix, which later ones still support.
pub const PROTOCOL: u64 = 1 << 8 | 35;

/// Longest string from a daemon, in bytes: mostly error messages.
pub const LONGEST: usize = 1 << 20;

/// Longest list from a daemon, in items: the referrers of a C library.
pub const MOST: usize = 1 << 20;

/// Messages that precede a daemon's answer to a request.
pub mod message {
    /// A line of the log: a string.
    pub const NEXT: u64 = 0x6f6c_6d67;
    /// The request failed: an error replaces the answer.
    pub const ERROR: u64 = 0x6378_7470;
    /// The request succeeded: the answer follows.
    pub const LAST: u64 = 0x616c_7473;
    /// An activity begins: id, level, kind, text, fields, parent.
    pub const START_ACTIVITY: u64 = 0x5354_5254;
    /// An activity ends: id.
    pub const STOP_ACTIVITY: u64 = 0x5354_4f50;
    /// A result of an activity: id, kind, fields.
    pub const RESULT: u64 = 0x5253_4c54;
}

/// Why bytes do not follow the protocol.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed or ended early.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// A length exceeds the limit.
    #[error("a {what} of length {length} is longer than the limit of {limit}")]
    TooLong {
        /// String or list.
        what: &'static str,
        /// The claimed length.
        length: u64,
        /// The limit.
        limit: usize,
    },
    /// The padding of a string is not zero.
    #[error("a string is not padded with zeros")]
    Padding,
    /// Something that the protocol doesn't allow at this place.
    #[error("{0}")]
    Unexpected(String),
}

/// Reads numbers, strings and lists from a stream.
#[derive(Debug)]
pub struct Decoder<R>(pub R);

impl<R: AsyncBufRead + Unpin> Decoder<R> {
    /// A number.
    pub async fn number(&mut self) -> Result<u64, WireError> {
        Ok(self.0.read_u64_le().await?)
    }

    /// A number, or `None` if the stream ends before it.
    pub async fn number_or_end(&mut self) -> Result<Option<u64>, WireError> {
        if self.0.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        self.number().await.map(Some)
    }

    /// A string of any bytes, at most `limit` long.
    pub async fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, WireError> {
        let length = self.length("string", limit).await?;
        let mut bytes = Vec::new();
        (&mut self.0).take(length as u64).read_to_end(&mut bytes).await?;
        if bytes.len() < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut padding = [0; 8];
        let padding = &mut padding[..padding_of(length)];
        self.0.read_exact(padding).await?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(WireError::Padding);
        }
        Ok(bytes)
    }

    /// A string in UTF-8.
    pub async fn text(&mut self, limit: usize) -> Result<String, WireError> {
        String::from_utf8(self.bytes(limit).await?)
            .map_err(|_| WireError::Unexpected("a string that should be text is not UTF-8".into()))
    }

    /// The length of a list, whose items follow.
    pub async fn length_of_list(&mut self, limit: usize) -> Result<usize, WireError> {
        self.length("list", limit).await
    }

    /// A list of strings.
    pub async fn list(&mut self, items: usize, limit: usize) -> Result<Vec<Vec<u8>>, WireError> {
        let mut list = Vec::new();
        for _ in 0..self.length_of_list(items).await? {
            list.push(self.bytes(limit).await?);
        }
        Ok(list)
    }

    async fn length(&mut self, what: &'static str, limit: usize) -> Result<usize, WireError> {
        let length = self.number().await?;
        match usize::try_from(length) {
            Ok(fits) if fits <= limit => Ok(fits),
            _ => Err(WireError::TooLong { what, length, limit }),
        }
    }
}

/// What precedes a daemon's answer.
impl<R: AsyncBufRead + Unpin> Decoder<R> {
    /// Skips the daemon's log up to the end of a request: its answer follows, or it has failed for this reason.
    pub async fn outcome(&mut self) -> Result<Result<(), String>, WireError> {
        loop {
            match self.number().await? {
                message::LAST => return Ok(Ok(())),
                message::ERROR => return self.error().await.map(Err),
                message::NEXT => drop(self.bytes(LONGEST).await?),
                message::STOP_ACTIVITY => drop(self.number().await?),
                message::START_ACTIVITY => {
                    for _id_level_kind in 0..3 {
                        self.number().await?;
                    }
                    self.bytes(LONGEST).await?;
                    self.skip_fields().await?;
                    let _parent = self.number().await?;
                }
                message::RESULT => {
                    for _id_kind in 0..2 {
                        self.number().await?;
                    }
                    self.skip_fields().await?;
                }
                other => return Err(WireError::Unexpected(format!("message {other:#x} of no meaning"))),
            }
        }
    }

    /// The text of an error.
    async fn error(&mut self) -> Result<String, WireError> {
        let _kind = self.bytes(LONGEST).await?;
        let _level = self.number().await?;
        let _name = self.bytes(LONGEST).await?;
        let text = self.bytes(LONGEST).await?;
        let _position = self.number().await?;
        for _ in 0..self.length_of_list(MOST).await? {
            let _position = self.number().await?;
            self.bytes(LONGEST).await?;
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn skip_fields(&mut self) -> Result<(), WireError> {
        for _ in 0..self.length_of_list(MOST).await? {
            match self.number().await? {
                0 => drop(self.number().await?),
                1 => drop(self.bytes(LONGEST).await?),
                other => return Err(WireError::Unexpected(format!("a field of unknown kind {other}"))),
            }
        }
        Ok(())
    }
}

/// Collects numbers, strings and lists, to be written at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// An answer, beginning with [`message::LAST`]: the request succeeded.
    pub fn done() -> Self {
        Encoder::default().number(message::LAST)
    }

    /// An error in the form of protocol 1.26 and later.
    pub fn error(text: &str) -> Self {
        Encoder::default()
            .number(message::ERROR)
            .bytes(b"Error")
            .number(0)
            .bytes(b"Error")
            .bytes(text.as_bytes())
            .number(0)
            .number(0)
    }

    /// Appends a number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Appends a string.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self = self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len() + padding_of(bytes.len()), 0);
        self
    }

    /// Appends a list of strings.
    #[must_use]
    pub fn list<T: AsRef<[u8]>>(self, items: &[T]) -> Self {
        items.iter().fold(self.number(items.len() as u64), |so_far, item| so_far.bytes(item.as_ref()))
    }

    /// The encoded bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

fn padding_of(length: usize) -> usize {
    length.wrapping_neg() % 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn any_words_survive(number: u64, string: Vec<u8>, list in vec(any::<Vec<u8>>(), 0..9)) {
            let encoded = Encoder::default().number(number).bytes(&string).list(&list);
            prop_assert_eq!(encoded.as_slice().len() % 8, 0);
            let mut decoder = Decoder(encoded.as_slice());
            run(async {
                assert_eq!(decoder.number().await.unwrap(), number);
                assert_eq!(decoder.bytes(10_000).await.unwrap(), string);
                assert_eq!(decoder.list(9, 10_000).await.unwrap(), list);
                assert_eq!(decoder.number_or_end().await.unwrap(), None);
            });
        }

        #[test]
        fn any_bytes_are_words_or_an_error(bytes: Vec<u8>) {
            run(async {
                let _ = Decoder(bytes.as_slice()).list(100, 100).await;
                let _ = Decoder(bytes.as_slice()).text(100).await;
            });
        }
    }

    #[test]
    fn words_are_as_nix_writes_them() {
        let encoded = Encoder::default().number(258).bytes(b"abc");
        assert_eq!(encoded.as_slice(), b"\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0abc\0\0\0\0\0");
    }

    #[tokio::test]
    async fn a_claimed_length_is_refused_before_a_byte_of_it_is_awaited() {
        for length in [101, 1 << 40, u64::MAX] {
            let claim = Encoder::default().number(length);
            let string = Decoder(claim.as_slice()).bytes(100).await.unwrap_err();
            assert!(matches!(string, WireError::TooLong { what: "string", .. }), "{string}");
            let list = Decoder(claim.as_slice()).list(100, 100).await.unwrap_err();
            assert!(matches!(list, WireError::TooLong { what: "list", .. }), "{list}");
        }
    }

    #[tokio::test]
    async fn padding_and_ends_are_checked() {
        let mut bytes = Encoder::default().bytes(b"abc").as_slice().to_vec();
        assert!(matches!(Decoder(&bytes[..14]).bytes(9).await, Err(WireError::Io(_))));
        bytes[15] = 1;
        assert!(matches!(Decoder(&bytes[..]).bytes(9).await, Err(WireError::Padding)));
        assert!(matches!(Decoder(&bytes[..5]).number_or_end().await, Err(WireError::Io(_))));
    }
}
