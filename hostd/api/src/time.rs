//! Dates in the two forms the APIs use, from milliseconds since 1970. No crate for twenty lines.

/// Seconds of a day.
const DAY: u64 = 86_400;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Year, month (1 to 12), day (1 to 31) of a count of days since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last of a year; 719 468 days lie between
    // 1 March of the year 0 and 1970, 146 097 days are 400 years.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// As Lambda's `LastModified`: `2024-05-01T12:34:56.789+0000`.
pub(crate) fn lambda(unix_ms: u64) -> String {
    let (year, month, day) = date(unix_ms / 1000 / DAY);
    let second = unix_ms / 1000 % DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}+0000", unix_ms % 1000)
}

/// As in RFC 3339, in UTC: `2024-05-01T12:34:56.789Z`.
pub fn rfc3339(unix_ms: u64) -> String {
    lambda(unix_ms).replace("+0000", "Z")
}

/// As in an access log, which is what `requestContext.time` holds: `01/May/2024:12:34:56 +0000`.
pub(crate) fn common_log(unix_ms: u64) -> String {
    let (year, month, day) = date(unix_ms / 1000 / DAY);
    let name = usize::try_from(month - 1).ok().and_then(|at| MONTHS.get(at)).copied().unwrap_or_default();
    let second = unix_ms / 1000 % DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{day:02}/{name}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000+0000"),
            (951_782_399_999, "2000-02-28T23:59:59.999+0000"),
            (951_868_799_001, "2000-02-29T23:59:59.001+0000"),
            (951_868_800_000, "2000-03-01T00:00:00.000+0000"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000+0000"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000+0000"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000+0000"),
        ] {
            assert_eq!(lambda(ms), text);
        }
        assert_eq!(common_log(1_714_566_896_789), "01/May/2024:12:34:56 +0000");
    }

    #[test]
    fn days_follow_each_other() {
        let mut last = date(0);
        for day in 1..200_000 {
            let next = date(day);
            let same_month = (last.0, last.1, last.2 + 1) == next;
            let next_month = next.2 == 1 && (next.1 == last.1 + 1 || (next.1 == 1 && next.0 == last.0 + 1));
            assert!((same_month && next.2 <= 31) || (next_month && last.2 >= 28), "{last:?} {next:?}");
            last = next;
        }
    }
}
