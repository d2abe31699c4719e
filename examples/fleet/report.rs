//! The tables.

use crate::sim::measure::Figures;
use std::fmt::Write;

/// A table with a column to the left and figures to the right.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn add(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.columns.len(), "a cell for each column");
        self.rows.push(row);
    }

    /// As Markdown.
    pub fn print(&self) -> String {
        let mut text = format!("| {} |\n", self.columns.join(" | "));
        writeln!(text, "|---|{}", "---:|".repeat(self.columns.len() - 1)).unwrap();
        for row in &self.rows {
            writeln!(text, "| {} |", row.join(" | ")).unwrap();
        }
        text
    }
}

/// The median over seeds, with the least and the most where they differ from it.
pub fn spread(values: impl IntoIterator<Item = Option<f64>>, print: impl Fn(f64) -> String) -> String {
    let values: Vec<Option<f64>> = values.into_iter().collect();
    let never = values.iter().filter(|value| value.is_none()).count();
    let mut known: Vec<f64> = values.into_iter().flatten().collect();
    known.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (known.first(), known.last()) else { return "–".to_owned() };
    let (middle, least, most) = (print(median(&known)), print(*least), print(*most));
    let never = if never == 0 { String::new() } else { format!(", {never} × never") };
    if least == most { middle + &never } else { format!("{middle} ({least}–{most}){never}") }
}

fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn seconds(value: f64) -> String {
    format!("{value:.0} s")
}

pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// What one contestant did, seed by seed.
pub type Runs = Vec<Figures>;

/// The table of one scenario, in the order of the contestants.
pub fn outage(contestants: &[(&str, Runs)]) -> String {
    let mut table = Table::new(&[
        "",
        "wasted requests",
        "of `none`'s",
        "of `local`'s",
        "90 % open after",
        "most probes in a second",
        "90 % back after",
        "behind the running opening",
        "retries per request",
        "failed (cut)",
        "shut out by news",
        "KV reads a day",
        "KV writes (refused)",
    ]);
    let of = |name: &str| contestants.iter().find(|(other, _)| *other == name).map(|(_, runs)| runs);
    for (name, runs) in contestants {
        let each = |figure: fn(&Figures) -> Option<f64>| runs.iter().map(figure);
        let share = |other: &str| {
            let others = of(other).filter(|_| *name != other).into_iter().flatten();
            spread(runs.iter().zip(others).map(|(own, other)| Some(own.wasted / other.wasted)), percent)
        };
        let has_breaker = matches!(*name, "fairlead" | "local");
        let if_breaker = |cell: String| if has_breaker { cell } else { "–".to_owned() };
        let if_store = |cell: String| if *name == "fairlead" { cell } else { "–".to_owned() };
        table.add(vec![
            (*name).to_owned(),
            spread(each(|run| Some(run.wasted)), count),
            share("none"),
            share("local"),
            if_breaker(spread(each(|run| run.open_s), seconds)),
            if_breaker(spread(each(|run| run.probes), count)),
            spread(each(|run| run.back_s), seconds),
            if_breaker(spread(each(|run| run.back_behind_s), seconds)),
            spread(each(|run| Some(run.retries)), |value| format!("{value:.3}")),
            format!("{} ({})", spread(each(|run| Some(run.failed)), count), spread(each(|run| Some(run.cut)), count)),
            if_store(spread(each(|run| Some(run.shut_out_s)), seconds)),
            if_store(spread(each(|run| Some(run.reads_a_day)), count)),
            if_store(format!(
                "{} ({})",
                spread(each(|run| Some(run.writes)), count),
                spread(each(|run| Some(run.refused)), count)
            )),
        ]);
    }
    table.print()
}
