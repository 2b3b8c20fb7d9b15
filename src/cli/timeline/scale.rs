//! Axes with round numbers, and durations for people.

use std::time::Duration;

/// The steps of a time axis in milliseconds, which are round numbers in seconds, minutes and hours.
const STEPS: [u64; 27] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000,
    120_000, 300_000, 600_000, 1_200_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 21_600_000,
    43_200_000, 86_400_000,
];

/// The ticks of a time axis: at most `most` and one at 0, each with its label.
pub(super) fn time_ticks(length: Duration, most: u32) -> Vec<(Duration, String)> {
    let fits = |step: &Duration| length.as_nanos() / step.as_nanos() <= u128::from(most);
    let steps = STEPS.into_iter().map(Duration::from_millis);
    let days = (0..32).map(|power| Duration::from_secs(86_400).saturating_mul(1 << power));
    let step = steps.chain(days).find(fits).unwrap_or(Duration::MAX);
    let ticks = (0..=most).map(|number| step.saturating_mul(number));
    let ticks = ticks.take_while(|tick| *tick <= length);
    ticks.map(|tick| (tick, tick_label(tick, step))).collect()
}

fn tick_label(tick: Duration, step: Duration) -> String {
    let (seconds, step_ms) = (tick.as_secs(), step.as_millis());
    if tick.is_zero() {
        "0".into()
    } else if step_ms >= 3_600_000 {
        format!("{} h", seconds / 3600)
    } else if step_ms >= 60_000 {
        match (seconds / 3600, seconds / 60 % 60) {
            (0, minutes) => format!("{minutes} min"),
            (hours, minutes) => format!("{hours} h {minutes:02}"),
        }
    } else if seconds >= 60 {
        format!("{}:{:02} min", seconds / 60, seconds % 60)
    } else if step_ms >= 1000 {
        format!("{seconds} s")
    } else if tick < Duration::from_secs(1) {
        format!("{} ms", tick.as_millis())
    } else {
        let digits = match step_ms {
            100.. => 1,
            10.. => 2,
            _ => 3,
        };
        format!("{:.digits$} s", tick.as_secs_f64())
    }
}

/// Formats a duration with two or three digits: `77 ms`, `4.2 s`, `1 min 20 s`.
pub(super) fn duration(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    let seconds = duration.as_secs_f64().round();
    if ms < 9.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 9_950.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if seconds < 60.0 {
        format!("{seconds:.0} s")
    } else {
        let seconds = duration.as_secs();
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
            (hours, minutes, _) => format!("{hours} h {minutes} min"),
        }
    }
}

/// The ticks of an axis of rates up to at least this one: two to five, the first at 0, the last at the end of
/// the axis. Each has its label.
pub(super) fn rate_ticks(most: f64) -> Vec<(f64, String)> {
    let most = if most.is_nan() {
        1.0
    } else {
        most.clamp(1.0, 1e18)
    };
    let magnitude = 10_f64.powf((most / 4.0).log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    let fits = |step: &f64| most / step <= 4.0;
    let step = factors.into_iter().map(|factor| factor * magnitude);
    let step = step.clone().find(fits).unwrap_or(magnitude * 10.0).max(1.0);
    let mut ticks = vec![(0.0, "0".to_owned())];
    while let Some((last, _)) = ticks.last()
        && *last < most
    {
        let next = last + step;
        ticks.push((next, rate(next)));
    }
    ticks
}

/// Formats a rate in bytes per second with up to three digits: `85 MB/s`, `2.5 kB/s`.
pub(super) fn rate(bytes: f64) -> String {
    let units = [(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")];
    let fits = |(size, _): &(f64, &str)| bytes >= 0.9995 * size;
    let (size, unit) = units.into_iter().find(fits).unwrap_or((1.0, "B/s"));
    let value = bytes / size;
    let digits = usize::from(value < 9.95);
    let text = format!("{value:.digits$}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn time_axes_have_round_numbers() {
        let table: &[(u64, &[&str])] = &[
            (0, &["0"]),
            (3, &["0", "1 ms", "2 ms", "3 ms"]),
            (640, &["0", "200 ms", "400 ms", "600 ms"]),
            (1300, &["0", "500 ms", "1.0 s"]),
            (4200, &["0", "1 s", "2 s", "3 s", "4 s"]),
            (65_000, &["0", "20 s", "40 s", "1:00 min"]),
            (240_000, &["0", "1 min", "2 min", "3 min", "4 min"]),
            (5_400_000, &["0", "20 min", "40 min", "1 h 00", "1 h 20"]),
            (50_000_000, &["0", "4 h", "8 h", "12 h"]),
        ];
        for (length, expected) in table {
            let ticks = time_ticks(ms(*length), 4);
            let labels: Vec<_> = ticks.iter().map(|(_, label)| &**label).collect();
            assert_eq!(labels, *expected, "{length}");
        }
        assert!(time_ticks(Duration::MAX, 8).len() <= 9);
    }

    #[test]
    fn durations_are_rounded() {
        let table = [
            (Duration::from_micros(1200), "1.2 ms"),
            (ms(77), "77 ms"),
            (ms(999), "999 ms"),
            (ms(1000), "1.0 s"),
            (ms(4249), "4.2 s"),
            (ms(12_400), "12 s"),
            (ms(59_499), "59 s"),
            (ms(80_000), "1 min 20 s"),
            (ms(3_900_000), "1 h 5 min"),
        ];
        for (value, expected) in table {
            assert_eq!(duration(value), expected);
        }
    }

    #[test]
    fn axes_of_rates_have_round_numbers() {
        let table: &[(f64, &[&str])] = &[
            (0.0, &["0", "1 B/s"]),
            (85e6, &["0", "25 MB/s", "50 MB/s", "75 MB/s", "100 MB/s"]),
            (190e6, &["0", "50 MB/s", "100 MB/s", "150 MB/s", "200 MB/s"]),
            (1_100.0, &["0", "500 B/s", "1 kB/s", "1.5 kB/s"]),
            (2e9, &["0", "500 MB/s", "1 GB/s", "1.5 GB/s", "2 GB/s"]),
        ];
        for (most, expected) in table {
            let ticks = rate_ticks(*most);
            let labels: Vec<_> = ticks.iter().map(|(_, label)| &**label).collect();
            assert_eq!(labels, *expected, "{most}");
        }
        for most in [f64::NAN, f64::INFINITY, -1.0] {
            assert!((2..=6).contains(&rate_ticks(most).len()), "{most}");
        }
    }
}
