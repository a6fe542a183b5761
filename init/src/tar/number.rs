//! Numbers as headers have them.

use super::Time;

/// A header's number: octal text, or binary where its first bit is set. `None` where it is neither.
pub fn parse(field: &[u8]) -> Option<i128> {
    let &first = field.first()?;
    if first & 0x80 != 0 {
        // Two's complement without its sign's own bit: the next bit is the sign.
        let mut value: i128 = if first & 0x40 != 0 { -1 } else { 0 };
        value = value << 6 | i128::from(first & 0x3f);
        for &byte in field.get(1..)? {
            value = value.checked_mul(256)? | i128::from(byte);
        }
        return Some(value);
    }
    let is_blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    // What stands behind the first blank is not looked at: some writers leave rubbish there.
    let _ = rest;
    digits.iter().try_fold(0_i128, |value, digit| match digit {
        b'0'..=b'7' => Some(value << 3 | i128::from(digit - b'0')),
        _ => None,
    })
}

/// Octal text that fills the field but for a NUL at its end; `false` where it does not fit.
pub fn format(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    if digits < 22 && value >> (3 * digits) != 0 {
        return false;
    }
    for (place, byte) in field[..digits].iter_mut().rev().enumerate() {
        *byte = b'0' + (value >> (3 * place) & 7) as u8;
    }
    field[digits] = 0;
    true
}

/// Decimal digits, as PAX has them.
pub fn decimal(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// Decimal seconds with a fraction, as PAX has them. What is finer than a nanosecond is dropped.
pub fn time(text: &[u8]) -> Option<Time> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        let mut scale = 100_000_000;
        for digit in fraction {
            if !digit.is_ascii_digit() {
                return None;
            }
            nanoseconds += u32::from(digit - b'0') * scale;
            scale /= 10;
        }
    }
    Some(match (is_negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        // The nanoseconds always count forwards.
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// As [`time`] reads it.
pub fn format_time(time: Time) -> String {
    match time {
        Time { seconds, nanoseconds: 0 } => seconds.to_string(),
        Time { seconds, nanoseconds } if seconds >= 0 => format!("{seconds}.{nanoseconds:09}"),
        Time { seconds, nanoseconds } => {
            // i64::MIN + 1 has a positive counterpart.
            format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn octal_is_read_with_whatever_stands_around_it() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", Some(0)),
            (b"00008\0", None),
            (b"-1\0", None),
            (b"", None),
        ] {
            assert_eq!(parse(field), value, "{field:?}");
        }
    }

    #[test]
    fn binary_numbers_have_a_sign() {
        assert_eq!(parse(&[0x80, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1]), Some(0x200_0001));
        assert_eq!(parse(&[0xff; 12]), Some(-1));
        assert_eq!(parse(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(parse(&[0x80, 1]), Some(1));
    }

    #[test]
    fn times_are_read_on_both_sides_of_1970() {
        let time_of = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        assert_eq!(time(b"12"), time_of(12, 0));
        assert_eq!(time(b"12.5"), time_of(12, 500_000_000));
        assert_eq!(time(b"12.0000000019"), time_of(12, 1));
        assert_eq!(time(b"-1.25"), time_of(-2, 750_000_000));
        assert_eq!(time(b"-3"), time_of(-3, 0));
        for junk in [&b""[..], b"-", b".5", b"1.x", b"1e3", b"+1", b"99999999999999999999"] {
            assert_eq!(time(junk), None, "{junk:?}");
        }
    }

    proptest! {
        #[test]
        fn octal_comes_back(value in any::<u64>(), length in 2..24_usize) {
            let mut field = vec![0; length];
            if format(&mut field, value) {
                prop_assert_eq!(parse(&field), Some(i128::from(value)));
            } else {
                prop_assert!(length <= 22 && value >= 1 << (3 * (length - 1)));
            }
        }

        #[test]
        fn times_come_back(seconds in i64::MIN + 2..i64::MAX, nanoseconds in 0..1_000_000_000_u32) {
            let one = Time { seconds, nanoseconds };
            prop_assert_eq!(time(format_time(one).as_bytes()), Some(one));
        }

        #[test]
        fn any_field_is_a_number_or_not(field in any::<Vec<u8>>()) {
            let _ = (parse(&field), decimal(&field), time(&field));
        }
    }
}
