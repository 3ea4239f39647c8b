//! What a heartbeat's answer says, as far as a connection's thread has to know: whether it is the plain yes, and the member's
//! epoch (KIP-848).

/// What makes an answer plain.
pub(crate) struct Expected {
    pub plain_answer: Vec<u8>,
    pub throttle_at: Option<usize>,
    /// The answers are those to a ConsumerGroupHeartbeat.
    pub follows_epoch: bool,
}

impl Expected {
    /// `body`: an answer's bytes after the correlation id. `epoch`: the one that the beat named.
    pub fn is_plain(&self, body: &[u8], epoch: Option<i32>) -> bool {
        let mut left_out = vec![self.throttle_at];
        if self.follows_epoch {
            match member_answer(body) {
                Some(answer) if Some(answer.epoch) == epoch => left_out.push(Some(answer.epoch_at)),
                _ => return false,
            }
        }
        let is_left_out = |at: usize| {
            let mut places = left_out.iter().flatten();
            places.any(|&place| (place..place.saturating_add(4)).contains(&at))
        };
        let plain = &self.plain_answer;
        let mut pairs = body.iter().zip(plain).enumerate();
        body.len() == plain.len() && pairs.all(|(at, (a, b))| a == b || is_left_out(at))
    }
}

/// What is read of an answer to a ConsumerGroupHeartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemberAnswer {
    pub error_code: i16,
    pub epoch: i32,
    /// Where it stands.
    pub epoch_at: usize,
}

/// Reads an answer from its bytes after the correlation id, which are not trusted: tagged fields of the header, then
/// throttle_time_ms, error_code, error_message, member_id, member_epoch and more.
/// Source: ConsumerGroupHeartbeatResponse.json of Kafka, versions 0 and 1 (KIP-848).
pub(crate) fn member_answer(body: &[u8]) -> Option<MemberAnswer> {
    let mut at = 0;
    for _ in 0..unsigned_varint(body, &mut at)? {
        let _tag = unsigned_varint(body, &mut at)?;
        let size = unsigned_varint(body, &mut at)?;
        skip(body, &mut at, size)?;
    }
    skip(body, &mut at, 4)?;
    let error_code = i16::from_be_bytes(*body.get(at..)?.first_chunk()?);
    at += 2;
    for _ in ["error_message", "member_id"] {
        // Compact and nullable: the length and one, or 0 for null.
        let size = unsigned_varint(body, &mut at)?;
        skip(body, &mut at, size.saturating_sub(1))?;
    }
    let epoch = int32(body, at)?;
    Some(MemberAnswer {
        error_code,
        epoch,
        epoch_at: at,
    })
}

fn skip(body: &[u8], at: &mut usize, count: u32) -> Option<()> {
    let end = at.checked_add(usize::try_from(count).ok()?)?;
    *at = (end <= body.len()).then_some(end)?;
    Some(())
}

/// At most five bytes. Source: <https://kafka.apache.org/protocol#protocol_types>, UNSIGNED_VARINT.
fn unsigned_varint(body: &[u8], at: &mut usize) -> Option<u32> {
    let mut value = 0_u32;
    for shift in (0..35).step_by(7) {
        let byte = *body.get(*at)?;
        *at += 1;
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Of a request: what its first two bytes say.
pub(crate) fn api_key(frame: &[u8]) -> Option<i16> {
    frame.first_chunk().map(|key| i16::from_be_bytes(*key))
}

pub(crate) fn int32(bytes: &[u8], at: usize) -> Option<i32> {
    let number = bytes.get(at..)?.first_chunk()?;
    Some(i32::from_be_bytes(*number))
}

pub(crate) fn put_int32(bytes: &mut [u8], at: usize, value: i32) {
    let place = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    if let Some(place) = place {
        *place = value.to_be_bytes();
    }
}

/// The fuzz target `heartbeat_answer`: whatever the bytes, an epoch within them or none.
pub fn fuzz(data: &[u8]) {
    if let Some(answer) = member_answer(data) {
        assert_eq!(int32(data, answer.epoch_at), Some(answer.epoch));
        assert!(
            answer.epoch_at >= 9,
            "four fields and the header's come before it"
        );
    }
    let expected = Expected {
        plain_answer: data.to_vec(),
        throttle_at: Some(1),
        follows_epoch: true,
    };
    let epoch = member_answer(data).map(|answer| answer.epoch);
    assert_eq!(expected.is_plain(data, epoch), epoch.is_some());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An answer's bytes after the correlation id, as Kafka writes them.
    pub fn answer(throttle_ms: i32, error_code: i16, message: Option<&str>, epoch: i32) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(throttle_ms.to_be_bytes());
        body.extend(error_code.to_be_bytes());
        for text in [message, Some("member")] {
            body.push(text.map_or(0, |text| text.len() as u8 + 1));
            body.extend(text.unwrap_or_default().as_bytes());
        }
        body.extend(epoch.to_be_bytes());
        body.extend(3_000_i32.to_be_bytes());
        body.extend([0xff, 0]);
        body
    }

    #[test]
    fn the_epoch_is_found_behind_whatever_comes_before_it() {
        let read = |body: &[u8]| member_answer(body).map(|found| (found.error_code, found.epoch));
        assert_eq!(read(&answer(0, 0, None, 7)), Some((0, 7)));
        assert_eq!(read(&answer(9, 110, Some("fenced"), 0)), Some((110, 0)));
        let mut tagged = vec![2, 5, 1, 0xaa, 0x80, 0x01, 0];
        tagged.extend(answer(0, 0, None, 7).split_off(1));
        assert_eq!(read(&tagged), Some((0, 7)));
    }

    #[test]
    fn what_ends_early_or_lies_about_its_lengths_is_no_answer() {
        let whole = answer(0, 0, Some("m"), 7);
        let epoch_ends = member_answer(&whole).unwrap().epoch_at + 4;
        for end in 0..epoch_ends {
            assert_eq!(member_answer(&whole[..end]), None, "{end} bytes");
        }
        assert!(member_answer(&whole[..epoch_ends]).is_some());
        let mut long = whole.clone();
        long[7] = 0x7f;
        assert_eq!(member_answer(&long), None);
        let endless = [0xff; 40];
        assert_eq!(member_answer(&endless), None);
        let mut huge = whole;
        huge.splice(7..8, [0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(member_answer(&huge), None);
    }

    #[test]
    fn plain_is_equal_but_for_throttling_and_the_epoch_that_was_asked_with() {
        let expected = Expected {
            plain_answer: answer(0, 0, None, 7),
            throttle_at: Some(1),
            follows_epoch: true,
        };
        assert!(expected.is_plain(&answer(0, 0, None, 7), Some(7)));
        assert!(expected.is_plain(&answer(250, 0, None, 7), Some(7)));
        assert!(expected.is_plain(&answer(0, 0, None, 8), Some(8)));
        assert!(!expected.is_plain(&answer(0, 0, None, 8), Some(7)));
        assert!(!expected.is_plain(&answer(0, 25, None, 7), Some(7)));
        assert!(!expected.is_plain(&answer(0, 0, Some(""), 7), Some(7)));
        let mut assigned = answer(0, 0, None, 7);
        assigned.splice(assigned.len() - 2.., [1, 1, 0, 0]);
        assert!(!expected.is_plain(&assigned, Some(7)));
    }

    #[test]
    fn a_classic_answer_is_compared_as_it_is() {
        let mut expected = Expected {
            plain_answer: vec![0, 0, 0, 0, 0, 0],
            throttle_at: Some(0),
            follows_epoch: false,
        };
        assert!(expected.is_plain(&[0, 0, 1, 0, 0, 0], None));
        assert!(!expected.is_plain(&[0, 0, 0, 0, 0, 27], None));
        assert!(!expected.is_plain(&[0, 0, 0, 0, 0], None));
        expected.throttle_at = None;
        assert!(!expected.is_plain(&[0, 0, 1, 0, 0, 0], None));
    }
}
