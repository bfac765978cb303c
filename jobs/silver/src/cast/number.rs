//! Numbers from their text, exact or not at all.

/// Why a text is not the wanted number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberFault {
    /// Not a number.
    Syntax,
    /// A digit that is not zero would be lost.
    Lossy,
    /// Beyond the range.
    Overflow,
}

/// `text` × 10^`scale` as a whole number. Accepts a sign, digits, a fraction and an exponent; no white space, no `NaN`.
#[inline]
pub(crate) fn scaled(text: &str, scale: i32) -> Result<i128, NumberFault> {
    // The common case, integer or short fraction of at most 18 digits, needs no 128-bit arithmetic.
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    if digits.len() <= 18 {
        let mut value = 0_u64;
        let mut point = None;
        for (index, byte) in digits.iter().enumerate() {
            match byte {
                b'0'..=b'9' => value = value * 10 + u64::from(byte - b'0'),
                b'.' if point.is_none() && index > 0 => point = Some(index),
                _ => return general(text, scale),
            }
        }
        let fraction = point.map_or(0, |index| digits.len() - index - 1) as i32;
        let shift = scale - fraction;
        if !digits.is_empty() && point.is_none_or(|index| index + 1 < digits.len()) && (0..=19).contains(&shift) {
            let value = i128::from(value) * POWERS[shift as usize];
            return Ok(if negative { -value } else { value });
        }
    }
    general(text, scale)
}

const fn powers() -> [i128; 39] {
    let mut powers = [1_i128; 39];
    let mut n = 1;
    while n < 39 {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
}

/// Powers of ten that fit 128 bits.
pub(crate) const POWERS: [i128; 39] = powers();

fn general(text: &str, scale: i32) -> Result<i128, NumberFault> {
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !fraction.is_none_or(all_digits) {
        return Err(NumberFault::Syntax);
    }
    let exponent = exponent.map_or(Ok(0), self::exponent)?;
    let fraction = fraction.unwrap_or_default();
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().all(|digit| digit == b'0') {
        return Ok(0);
    }
    // The value is the digits × 10^shift.
    let shift = i64::from(scale) + exponent - fraction.len() as i64;
    let total = (whole.len() + fraction.len()) as i64;
    let kept = if shift < 0 { (total + shift).max(0) } else { total } as usize;
    if digits().skip(kept).any(|digit| digit != b'0') {
        return Err(NumberFault::Lossy);
    }
    let mut value = 0_i128;
    for digit in digits().take(kept) {
        value = value.checked_mul(10).and_then(|v| v.checked_add(i128::from(digit - b'0'))).ok_or(NumberFault::Overflow)?;
    }
    if shift > 0 {
        let factor = usize::try_from(shift).ok().and_then(|shift| POWERS.get(shift)).ok_or(NumberFault::Overflow)?;
        value = value.checked_mul(*factor).ok_or(NumberFault::Overflow)?;
    }
    Ok(if negative { -value } else { value })
}

/// The value of an exponent; one too large for any number is capped, so that zeros and overflows still come out right.
fn exponent(text: &str) -> Result<i64, NumberFault> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NumberFault::Syntax);
    }
    const CAP: i64 = 1 << 40;
    let value = digits.bytes().fold(0_i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(CAP));
    Ok(if text.starts_with('-') { -value } else { value })
}

/// The nearest double; a text beyond its range, `NaN` and infinities are faults.
#[inline]
pub(crate) fn double(text: &str) -> Result<f64, NumberFault> {
    // `parse` also takes words such as `inf`, which hold letters other than the exponent's.
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) if text.bytes().any(|b| b.is_ascii_digit()) => Err(NumberFault::Overflow),
        _ => Err(NumberFault::Syntax),
    }
}

/// The nearest single; a text beyond its range, `NaN` and infinities are faults.
#[inline]
pub(crate) fn float(text: &str) -> Result<f32, NumberFault> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) if text.bytes().any(|b| b.is_ascii_digit()) => Err(NumberFault::Overflow),
        _ => Err(NumberFault::Syntax),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_or_faults() {
        let cases = [
            ("12", 0, Ok(12)),
            ("-12", 0, Ok(-12)),
            ("12.0", 0, Ok(12)),
            ("12.5", 0, Err(NumberFault::Lossy)),
            ("12.50", 1, Ok(125)),
            ("1.2e1", 0, Ok(12)),
            ("1e-3", 2, Err(NumberFault::Lossy)),
            ("100e-2", 0, Ok(1)),
            ("0e999999999999999999999", 0, Ok(0)),
            ("1e999999999999999999999", 0, Err(NumberFault::Overflow)),
            ("1e-999999999999999999999", 0, Err(NumberFault::Lossy)),
            ("67812.1234567890123456", 16, Ok(678_121_234_567_890_123_456)),
            ("170141183460469231731687303715884105727", 0, Ok(i128::MAX)),
            ("170141183460469231731687303715884105728", 0, Err(NumberFault::Overflow)),
            ("1500", -3, Err(NumberFault::Lossy)),
            ("2000", -3, Ok(2)),
            ("+7", 0, Ok(7)),
            ("007", 0, Ok(7)),
            ("", 0, Err(NumberFault::Syntax)),
            ("-", 0, Err(NumberFault::Syntax)),
            ("1.", 0, Err(NumberFault::Syntax)),
            (".5", 1, Err(NumberFault::Syntax)),
            ("1 ", 0, Err(NumberFault::Syntax)),
            ("0x10", 0, Err(NumberFault::Syntax)),
            ("1e", 0, Err(NumberFault::Syntax)),
            ("NaN", 0, Err(NumberFault::Syntax)),
            ("1,5", 0, Err(NumberFault::Syntax)),
            ("1.2.3", 5, Err(NumberFault::Syntax)),
        ];
        for (text, scale, expected) in cases {
            assert_eq!(scaled(text, scale), expected, "{text} at scale {scale}");
        }
    }

    #[test]
    fn floats_refuse_what_is_no_number() {
        assert_eq!(double("0.1"), Ok(0.1));
        assert_eq!(double("1e400"), Err(NumberFault::Overflow));
        assert_eq!(float("1e39"), Err(NumberFault::Overflow));
        for word in ["NaN", "inf", "-Infinity", "", "abc"] {
            assert_eq!(double(word), Err(NumberFault::Syntax), "{word}");
            assert_eq!(float(word), Err(NumberFault::Syntax), "{word}");
        }
    }
}
