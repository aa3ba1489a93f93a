//! Numbers as a reader likes them.

use crate::intervals::Interval;

/// With four decimals: `0.2347`.
pub(super) fn decimal(value: f64) -> String {
    format!("{value:.4}")
}

/// With four decimals and a sign: `+0.0312`.
pub(super) fn signed(value: f64) -> String {
    format!("{value:+.4}")
}

/// Mean with its bounds: `0.2347 [0.2301, 0.2392]`.
pub(super) fn interval(of: &Interval, write: fn(f64) -> String) -> String {
    format!("{} [{}, {}]", write(of.mean), write(of.low), write(of.high))
}

/// A share in percent: `23.5 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// With commas between the thousands: `11,841`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A p-value: `0.0123`, and `< 0.0001` below that.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".to_owned() } else { decimal(p) }
}

/// Seconds with a digit that says something: `0.042 s`, `12.3 s`.
pub(super) fn seconds(value: f64) -> String {
    let decimals = if value < 1.0 { 3 } else { 1 };
    format!("{value:.decimals$} s")
}

/// Bytes in MiB or GiB; a dash if they were not measured.
pub(super) fn bytes(count: u64) -> String {
    const MIB: f64 = 1_048_576.0;
    match count as f64 / MIB {
        0.0 => "-".to_owned(),
        mib if mib < 1_024.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.2} GiB", mib / 1_024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn an_interval_is_written_with_its_bounds() {
        let of = Interval { mean: 0.03124, low: -0.01, high: 0.2 };
        assert_eq!(interval(&of, signed), "+0.0312 [-0.0100, +0.2000]");
        assert_eq!(interval(&of, decimal), "0.0312 [-0.0100, 0.2000]");
    }

    #[test]
    fn small_and_large_amounts_keep_a_digit_that_says_something() {
        assert_eq!([0.0423, 12.34].map(seconds), ["0.042 s", "12.3 s"]);
        assert_eq!([0, 5 << 20, 3 << 29].map(bytes), ["-", "5 MiB", "1.50 GiB"]);
        assert_eq!([0.00001, 0.04].map(p_value), ["< 0.0001", "0.0400"]);
    }
}
