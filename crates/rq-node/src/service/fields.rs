//! The fields of a protobuf message, one after the other, without memory taken for any of them: to count what
//! repeats, or to leave something out, before the message is decoded.
//!
//! Knows no groups, which nothing here sends. Bytes that make no sense are an error, never a panic.

/// One field as it stands in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// Its number.
    pub(crate) number: u32,
    /// All of it, key included.
    pub(crate) whole: &'a [u8],
    /// What it holds, if it is a string, bytes or a message.
    pub(crate) content: Option<&'a [u8]>,
}

/// The fields of a message. After an error there are none.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields in these bytes.
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Option<Field<'a>> {
        let begin = self.rest;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok()?;
        let content = match key & 7 {
            0 => {
                self.varint()?;
                None
            }
            1 => {
                self.take(8)?;
                None
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                None
            }
            _ => return None,
        };
        let whole = &begin[..begin.len() - self.rest.len()];
        Some(Field { number, whole, content })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (shift, byte) in (0..64).step_by(7).zip(self.rest) {
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.rest = &self.rest[shift / 7 + 1..];
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| "the fields of a message make no sense".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Sample {
        #[prost(uint64, tag = "1")]
        number: u64,
        #[prost(fixed64, tag = "2")]
        wide: u64,
        #[prost(fixed32, tag = "3")]
        narrow: u32,
        #[prost(string, repeated, tag = "1000")]
        texts: Vec<String>,
    }

    fn sample() -> Vec<u8> {
        let texts = vec![String::new(), "x".repeat(300)];
        Sample { number: u64::MAX, wide: 1, narrow: 2, texts }.encode_to_vec()
    }

    #[test]
    fn all_fields_are_found_and_together_are_the_message() {
        let bytes = sample();
        let fields: Vec<_> = Fields::of(&bytes).map(|field| field.expect("it is one")).collect();
        let found: Vec<_> =
            fields.iter().map(|field| (field.number, field.content.map(<[u8]>::len))).collect();
        assert_eq!(found, [(1, None), (2, None), (3, None), (1000, Some(0)), (1000, Some(300))]);
        let together: Vec<u8> = fields.iter().flat_map(|field| field.whole.to_vec()).collect();
        assert_eq!(together, bytes);
    }

    #[test]
    fn what_is_cut_off_or_no_message_is_an_error_and_the_last_item() {
        let bytes = sample();
        for length in 1..bytes.len() {
            let fields = Fields::of(&bytes[..length]);
            let errors = fields.clone().filter(Result::is_err).count();
            let whole: usize = fields.flatten().map(|field| field.whole.len()).sum();
            assert_eq!(errors == 0, whole == length, "cut off after {length}");
        }
        // A group, a length beyond all bytes, a number without an end, a field number beyond all.
        for bad in [
            &[0x0b][..],
            &[0x0a, 0xff, 0x7f],
            &[0xff; 11],
            &[0x80, 0x80, 0x80, 0x80, 0xf0, 0x01, 0],
        ] {
            assert!(Fields::of(bad).last().is_some_and(|last| last.is_err()), "{bad:?}");
        }
    }
}
