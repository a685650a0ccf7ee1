//! Sizes in bytes in the format of Kubernetes quantities: `10Gi`, `500M`, `1.5Ti`, `1e9`, plain
//! bytes.
//!
//! Fractions of a byte are rounded up, as in Kubernetes. The suffixes `m`, `u` and `n` (thousandths
//! and less) are refused, because they make no sense for bytes.

use thiserror::Error;

/// The suffixes of powers of 1024, from 1024 on.
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The suffixes of powers of 1000, from 1000 on. The first one is in lower case in Kubernetes.
const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];

/// Why a text is not a size.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum BadQuantity {
    /// It has another format.
    #[error("is not a number of bytes like 10Gi, 500M, 1.5Ti, 1e9 or 1073741824")]
    Malformed,
    /// It is 0.
    #[error("must be at least 1 byte")]
    Zero,
    /// It does not fit into 64 bits.
    #[error("is too large")]
    TooLarge,
}

/// Parses a size of at least 1 byte.
///
/// # Errors
/// [`BadQuantity`]
pub fn parse(text: &str) -> Result<u64, BadQuantity> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(BadQuantity::Malformed);
    }
    let fraction = fraction.trim_end_matches('0');
    let (times, shift) = scale(suffix).ok_or(BadQuantity::Malformed)?;
    let digits = format!("{whole}{fraction}");
    let places = i64::try_from(fraction.len()).map_err(|_| BadQuantity::TooLarge)? - shift;
    amount(digits.trim_start_matches('0'), times, places)
}

/// The factor of a suffix, and the number of places by which it moves the decimal point to the
/// right.
fn scale(suffix: &str) -> Option<(u128, i64)> {
    let power = |suffixes: &[&str]| suffixes.iter().position(|s| *s == suffix).map(|at| at + 1);
    if suffix.is_empty() {
        return Some((1, 0));
    }
    if let Some(power) = power(&BINARY) {
        return Some((1 << (10 * power), 0));
    }
    if let Some(power) = power(&DECIMAL) {
        return Some((1, 3 * i64::try_from(power).ok()?));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    // Two digits are enough for every size, and no sum can overflow.
    let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| exponent.parse().ok()).flatten().map(|shift| (1, shift))
}

/// `digits` * `times` / 10^`places`, rounded up.
fn amount(digits: &str, times: u128, places: i64) -> Result<u64, BadQuantity> {
    if digits.is_empty() {
        return Err(BadQuantity::Zero);
    }
    let exact = || -> Option<u128> {
        let product = digits.parse::<u128>().ok()?.checked_mul(times)?;
        let power = 10_u128.checked_pow(u32::try_from(places.unsigned_abs()).ok()?);
        match places {
            ..0 => product.checked_mul(power?),
            // A power that does not fit is larger than every product: the quotient rounds up to 1.
            0.. => Some(power.map_or(1, |power| product.div_ceil(power))),
        }
    };
    exact().and_then(|bytes| u64::try_from(bytes).ok()).ok_or(BadQuantity::TooLarge)
}

/// Formats a size exactly, as short as possible: `10Gi`, or all digits.
pub fn exact(bytes: u64) -> String {
    let fits = |power: &usize| bytes != 0 && bytes.trailing_zeros() as usize >= 10 * power;
    match (1..=BINARY.len()).rev().find(fits) {
        Some(power) => format!("{}{}", bytes >> (10 * power), BINARY[power - 1]),
        None => bytes.to_string(),
    }
}

/// Formats a size for people, rounded to a tenth of the unit: `10Gi`, `1.5Ti`, `512`.
pub fn about(bytes: u64) -> String {
    let tenths = |power: usize| {
        let unit = 1_u128 << (10 * power);
        (u128::from(bytes) * 10 + unit / 2) / unit
    };
    // The unit is chosen by the rounded number: 1023.99 MiB are shown as 1Gi.
    let power = (0..BINARY.len()).find(|power| tenths(*power) < 10 * 1024).unwrap_or(BINARY.len());
    if power == 0 {
        return bytes.to_string();
    }
    match (tenths(power) / 10, tenths(power) % 10) {
        (whole, 0) => format!("{whole}{}", BINARY[power - 1]),
        (whole, tenth) => format!("{whole}.{tenth}{}", BINARY[power - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_parsed_as_in_kubernetes() {
        let check = |text, bytes| assert_eq!(parse(text), Ok(bytes), "{text}");
        check("1", 1);
        check("1073741824", 1 << 30);
        check("10Gi", 10 << 30);
        check("1.5Ti", 3 << 39);
        check(".5Ki", 512);
        check("5.Ki", 5120);
        check("0010Ki", 10240);
        check("500M", 500_000_000);
        check("1k", 1000);
        check("2.5G", 2_500_000_000);
        check("15E", 15_000_000_000_000_000_000);
        check("15Ei", 15 << 60);
        check("1e9", 1_000_000_000);
        check("1E9", 1_000_000_000);
        check("1.25e+3", 1250);
        check("12000e-3", 12);
        check("0.1", 1);
        check("1e-99", 1);
        check("1.0000000001Ki", 1025);
        check("1.00000000000000000000000000000000000000000000000000", 1);
        check("18446744073709551615", u64::MAX);
    }

    #[test]
    fn invalid_sizes_are_refused() {
        let check = |text: &str, why| assert_eq!(parse(text), Err(why), "{text:?}");
        let malformed = [
            "", ".", "Gi", "10GiB", "10gi", "10KB", "10K", "10 Gi", " 10Gi", "-1", "+1", "1.2.3",
            "100m", "1u", "1n", "1e", "1e+", "1e999", "1e1.5", "1ee1", "1e+-1", "0x10", "१",
            "1_000", "1,5Gi", "inf", "NaN",
        ];
        malformed.iter().for_each(|text| check(text, BadQuantity::Malformed));
        check("0", BadQuantity::Zero);
        check("0.00Gi", BadQuantity::Zero);
        check("0e9", BadQuantity::Zero);
        check("16Ei", BadQuantity::TooLarge);
        check("18446744073709551616", BadQuantity::TooLarge);
        check("1e99", BadQuantity::TooLarge);
        check(&"9".repeat(5000), BadQuantity::TooLarge);
    }

    #[test]
    fn sizes_for_people_have_few_digits() {
        let check = |bytes, text: &str| assert_eq!(about(bytes), text, "{bytes}");
        check(0, "0");
        check(1023, "1023");
        check(1024, "1Ki");
        check(1536, "1.5Ki");
        check((10 << 30) + 1, "10Gi");
        check((1 << 30) - 1, "1Gi");
        check(1_000_000_000, "953.7Mi");
        check(u64::MAX, "16Ei");
    }

    #[test]
    fn exact_sizes_are_as_short_as_possible() {
        let check = |bytes, text: &str| assert_eq!(exact(bytes), text, "{bytes}");
        check(0, "0");
        check(10 << 30, "10Gi");
        check(3 << 39, "1536Gi");
        check(1_000_000_000, "1000000000");
        check(1025, "1025");
        check(1 << 60, "1Ei");
    }

    proptest! {
        #[test]
        fn exact_sizes_are_parsed_to_the_same_value(bytes in 1_u64.., shift in 0_u32..64) {
            for bytes in [bytes, bytes >> shift << shift] {
                if bytes != 0 {
                    prop_assert_eq!(parse(&exact(bytes)), Ok(bytes));
                }
            }
        }

        #[test]
        fn sizes_for_people_are_close_to_the_value(bytes in 1_u64..1 << 62) {
            let read = parse(&about(bytes)).unwrap();
            prop_assert!(read.abs_diff(bytes) <= bytes / 20, "{}", about(bytes));
        }

        #[test]
        fn nothing_panics(
            text in "\\PC{0,40}",
            number in "[0-9.]{0,45}[eEKMGTPEim+-]{0,2}[0-9]{0,3}",
        ) {
            let _ = (parse(&text), parse(&number));
        }
    }
}
