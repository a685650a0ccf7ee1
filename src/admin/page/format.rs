//! Formats of numbers for people.

use std::time::Duration;

use crate::admin::rates::as_float;

/// A number of bytes, in binary units: `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    size(as_float(n))
}

/// Bytes per second: `1.5 MiB/s`.
pub fn bytes_per_second(rate: f64) -> String {
    format!("{}/s", size(rate))
}

fn size(mut n: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    // Not 1024: from 1023.5 on, the number would be rounded to 1024.
    while n >= 1023.5 && unit + 1 < UNITS.len() {
        n /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || n >= 99.95 { 0 } else { 1 };
    format!("{n:.digits$} {}", UNITS[unit])
}

/// A number with separators of thousands: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Calls per second: `0`, `3.5`, `1,234`.
pub fn calls(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 {
        return format!("{rate:.1}");
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // calls of one server
    let whole = rate.round() as u64;
    count(whole)
}

/// `part` of `whole` in percent, rounded down: less than the whole is never 100.
pub fn percent(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// A time in its two largest units: `3 d 4 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits() {
        let check = |n, expected| assert_eq!(bytes(n), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1536, "1.5 KiB");
        check(123 << 20, "123 MiB");
        check((1 << 30) - 1, "1.0 GiB");
        check(u64::MAX, "16.0 EiB");
        assert_eq!(bytes_per_second(2048.0), "2.0 KiB/s");
    }

    #[test]
    fn counts_have_separators_of_thousands() {
        assert_eq!([count(0), count(999), count(1000)], ["0", "999", "1,000"]);
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!([calls(0.0), calls(3.52), calls(1234.4)], ["0", "3.5", "1,234"]);
    }

    #[test]
    fn percentages_are_rounded_down() {
        assert_eq!([percent(999, 1000), percent(1000, 1000)], [99, 100]);
        assert_eq!([percent(3, 2), percent(0, 0), percent(u64::MAX, u64::MAX)], [150, 0, 100]);
    }

    #[test]
    fn times_have_two_units() {
        let check =
            |seconds, expected| assert_eq!(duration(Duration::from_secs(seconds)), expected);
        check(0, "0 s");
        check(59, "59 s");
        check(61, "1 min 1 s");
        check(3 * 3600 + 60, "3 h 1 min");
        check(2 * 86_400 + 3600, "2 d 1 h");
    }
}
