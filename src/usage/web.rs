//! The trailers of a gRPC-Web response, which stand in its body: the last frame of it. Not where
//! the body is text, in base64.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Reads the frames of a body as they go by: a byte of flags, four of length, and so many.
#[derive(Default)]
pub(super) struct WebFrames {
    head: [u8; 5],
    /// How much of it has been read.
    read: usize,
    /// How much of the frame behind it has not.
    left: usize,
    trailers: Vec<u8>,
    pub(super) has_message: bool,
}

impl WebFrames {
    /// For a response that has these fields, if it has frames.
    pub(super) fn of(fields: &HeaderMap) -> Option<Box<Self>> {
        let media_type = fields.get(CONTENT_TYPE)?.as_bytes();
        let rest = media_type.strip_prefix(b"application/grpc-web")?;
        (!rest.starts_with(b"-text")).then(Box::default)
    }

    /// Reads on. Says what the status is, when it has read it.
    pub(super) fn read(&mut self, data: &Bytes) -> Option<u32> {
        let mut data = &data[..];
        while !data.is_empty() {
            if self.read < self.head.len() {
                let (byte, rest) = data.split_first()?;
                self.head[self.read] = *byte;
                (self.read, data) = (self.read + 1, rest);
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
                self.has_message |= self.read == 1 && byte & TRAILERS == 0;
            } else {
                let (frame, rest) = data.split_at(self.left.min(data.len()));
                (self.left, data) = (self.left - frame.len(), rest);
                if self.head[0] == TRAILERS {
                    let room = MOST_TRAILERS.saturating_sub(self.trailers.len());
                    self.trailers
                        .extend_from_slice(&frame[..room.min(frame.len())]);
                }
            }
            if self.read == self.head.len() && self.left == 0 {
                self.read = 0;
            }
        }
        self.status()
    }

    fn status(&self) -> Option<u32> {
        let mut lines = self.trailers.split_inclusive(|byte| *byte == b'\n');
        let line = lines.find_map(|line| {
            let (name, value) = line.split_at_checked(NAME.len())?;
            let is_whole = value.ends_with(b"\n") && name.eq_ignore_ascii_case(NAME);
            is_whole.then(|| value.trim_ascii())
        })?;
        str::from_utf8(line).ok()?.parse().ok()
    }
}

const NAME: &[u8] = b"grpc-status:";
/// The flag of a frame of trailers. Those that are compressed are not read.
const TRAILERS: u8 = 0x80;
const MOST_TRAILERS: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"\0\0\0\0\x03abc\0\0\0\0\0\x80\0\0\0\x22grpc-message:no\r\nGrpc-Status: 12\r\n";

    fn frames(content_type: &'static str) -> Option<Box<WebFrames>> {
        let fields = [(CONTENT_TYPE, content_type.parse().unwrap())];
        WebFrames::of(&fields.into_iter().collect())
    }

    #[test]
    fn the_status_is_found_wherever_the_body_is_cut() {
        for size in 1..=BODY.len() {
            let mut frames = frames("application/grpc-web+proto").unwrap();
            let chunks = BODY.chunks(size).map(Bytes::copy_from_slice);
            let found: Vec<_> = chunks.map(|chunk| frames.read(&chunk)).collect();
            assert_eq!(found.last(), Some(&Some(12)), "in pieces of {size}");
            assert!(found[..found.len() - 1].iter().all(Option::is_none));
            assert!(frames.has_message);
        }
    }

    #[test]
    fn what_is_no_trailer_is_not_taken_for_one_and_nothing_is_kept_without_bounds() {
        let read = |body: Vec<u8>| {
            let mut frames = frames("application/grpc-web").unwrap();
            let status = frames.read(&body.into());
            assert!(frames.trailers.len() <= MOST_TRAILERS);
            (status, frames.has_message)
        };
        assert_eq!(
            read(b"\0\0\0\0\x10grpc-status:12\r\n".to_vec()),
            (None, true)
        );
        assert_eq!(
            read(b"\x81\0\0\0\x10grpc-status:12\r\n".to_vec()),
            (None, false)
        );
        assert_eq!(
            read(b"\x80\0\0\0\x10grpc-status:-2\r\n".to_vec()),
            (None, false)
        );
        let mut endless = b"\x80\xff\xff\xff\xffgrpc-status:2\r\n".to_vec();
        endless.resize(1 << 20, b'x');
        assert_eq!(read(endless), (Some(2), false));
        for other in [
            "application/grpc",
            "application/grpc-web-text+proto",
            "text/plain",
        ] {
            assert!(frames(other).is_none(), "{other}");
        }
    }
}
