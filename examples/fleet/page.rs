//! `docs/fleet.md` and its pictures.

use crate::{
    Extent, play,
    plot::{self, Axis, Line, Panel},
    report::{self, Runs, Table, count, percent, seconds, spread},
    scenarios::{self, CURVE, TRIGGER_MS},
    sim::{
        counts::Counts,
        measure::Figures,
        scenario::{Contestant, Scenario},
    },
};
use plotters::style::RGBColor;

/// What is written.
pub struct Page {
    pub text: String,
    pub outage: String,
    pub metastable: String,
}

const CONTESTANTS: [Contestant; 4] = [Contestant::Fairlead, Contestant::Local, Contestant::None, Contestant::Oracle];

/// Those of the metastable scenario.
const RETRIERS: [Contestant; 4] = [Contestant::Fairlead, Contestant::Local, Contestant::None, Contestant::Plain];

/// Goodput is back to normal when in every five seconds to come so many calls are answered.
const NORMAL: f64 = 0.95;

/// The main scenarios.
const OUTAGES: usize = 2;

const HEAD: &str = include_str!("head.md");

/// Runs everything.
pub fn make(extent: &Extent) -> Page {
    let Extent { seeds, days, only } = extent;
    let mut page = Page { text: HEAD.to_owned(), outage: String::new(), metastable: String::new() };
    let outages: [Scenario; OUTAGES] = [scenarios::refuses(), scenarios::silent()];
    let all = outages.into_iter().chain(scenarios::fleets()).chain(scenarios::ills());
    for (place, scenario) in all.enumerate().filter(|(_, scenario)| scenario.name.contains(only)) {
        // The main ones are run with all seeds, the others with a quarter of them.
        let seeds = if place < OUTAGES { *seeds } else { seeds.div_ceil(4) };
        let played = play(&scenario, &CONTESTANTS, seeds);
        page.text += &section(&scenario, &CONTESTANTS, &played);
        if place == 0 {
            page.outage = outage_picture(&scenario, &played);
            page.text += "\n![One run of it](fleet-outage.svg)\n";
        }
    }
    let day = scenarios::day();
    if *days > 0 && day.name.contains(only) {
        let contestants = [Contestant::Fairlead];
        page.text += &section(&day, &contestants, &play(&day, &contestants, *days));
    }
    if "metastable".contains(only.as_str()) {
        let (section, picture) = metastable(*seeds);
        page.text += &section;
        page.metastable = picture;
    }
    page
}

fn section(scenario: &Scenario, contestants: &[Contestant], played: &[Vec<Counts>]) -> String {
    let runs: Vec<(&str, Runs)> = contestants
        .iter()
        .zip(played)
        .map(|(contestant, counts)| {
            (contestant.name(), counts.iter().map(|counts| Figures::new(scenario, counts)).collect())
        })
        .collect();
    let seeds = played.first().map_or(0, Vec::len);
    let calls = spread(played.iter().flatten().map(|counts| Some(counts.calls as f64)), count);
    let mut letters = scenario.name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let name: String = first.chain(letters).collect();
    format!("\n### {name}\n\n{calls} requests, {seeds} seeds.\n\n{}", report::outage(&runs))
}

fn line(contestant: Contestant, seconds: usize, value: impl Fn(usize) -> f64) -> Line {
    let color = match contestant {
        Contestant::Fairlead => RGBColor(20, 90, 200),
        Contestant::Local => RGBColor(230, 130, 20),
        Contestant::None => RGBColor(190, 40, 50),
        Contestant::Oracle => RGBColor(60, 150, 70),
        Contestant::Plain => RGBColor(120, 60, 150),
    };
    // A value over five seconds stands in their middle.
    let points = (0..seconds).map(|second| ((second as f64 + 2.5) / 60.0, value(second))).collect();
    Line { name: contestant.name(), color, points }
}

/// The run with the first seed.
fn outage_picture(scenario: &Scenario, played: &[Vec<Counts>]) -> String {
    let seconds = scenario.seconds as usize - 5;
    let lines = |contestants: &[Contestant], value: fn(&Counts, usize) -> f64| {
        let both = CONTESTANTS.iter().zip(played).filter(|(contestant, _)| contestants.contains(contestant));
        both.map(|(contestant, counts)| line(*contestant, seconds, |second| value(&counts[0], second))).collect()
    };
    let panels = [
        Panel {
            title: "requests per second at a, the endpoint that is down in the shaded time",
            axis: Axis::Logarithmic(0.1, 400.0),
            lines: lines(&CONTESTANTS, Counts::attempts_at_a),
        },
        Panel {
            title: "share of isolates whose breaker is open",
            axis: Axis::Share,
            lines: lines(&CONTESTANTS[..2], Counts::share_open),
        },
        Panel {
            title: "share of traffic that asks a first",
            axis: Axis::Share,
            lines: lines(&CONTESTANTS, Counts::share_at_a),
        },
    ];
    let minutes = |ms: u64| ms as f64 / 60_000.0;
    let ill = scenario.ill().expect("an outage");
    plot::draw(seconds as f64 / 60.0, (minutes(ill.start), minutes(ill.end)), &panels)
}

/// The table of the metastable scenario, and its picture.
fn metastable(seeds: u64) -> (String, String) {
    let mut table =
        Table::new(&["", "isolates", "back to normal after", "answered in the last minute", "attempts per call"]);
    let mut panels = Vec::new();
    for (isolates, title) in [(1, "answered calls: one isolate"), (500, "answered calls: 500 isolates")] {
        let scenario = scenarios::metastable(isolates);
        let played = play(&scenario, &RETRIERS, seeds);
        let (from, end) = ((TRIGGER_MS.end / 1000) as usize, scenario.seconds as usize - 10);
        for (contestant, counts) in RETRIERS.iter().zip(&played) {
            let each = |figure: &dyn Fn(&Counts) -> Option<f64>| counts.iter().map(figure).collect::<Vec<_>>();
            let back = each(&|counts| Some((counts.well_for_good(from, end, NORMAL)? - from) as f64));
            let back = if back.iter().all(Option::is_none) { "never".to_owned() } else { spread(back, seconds) };
            let last = each(&|counts| Some((end - 60..end).map(|at| counts.goodput(at)).sum::<f64>() / 60.0));
            let attempts = each(&|counts| Some(counts.attempts as f64 / counts.calls as f64));
            let attempts = spread(attempts, |value| format!("{value:.2}"));
            table.add(vec![
                contestant.name().to_owned(),
                count(isolates as f64),
                back,
                spread(last, percent),
                attempts,
            ]);
        }
        let lines = RETRIERS.iter().zip(&played);
        let lines = lines.map(|(contestant, counts)| line(*contestant, end, |at| counts[0].goodput(at))).collect();
        panels.push(Panel { title, axis: Axis::Share, lines });
    }
    let minutes = |ms: u64| ms as f64 / 60_000.0;
    let length = (scenarios::metastable(1).seconds - 10) as f64 / 60.0;
    let picture = plot::draw(length, (minutes(TRIGGER_MS.start), minutes(TRIGGER_MS.end)), &panels);
    let capacity = CURVE.capacity();
    let text = format!(
        "\n## Metastable failure\n\n\
        One endpoint alone, whose capacity falls as its queue grows: it serves {slots} requests at a time, {capacity:.0} \
        a second while nobody waits. With *n* waiting, a request takes 600 ms × (1 + *n* / {slows_at}), at most × \
        {slowest}; its first token comes after a quarter of that, and only then the endpoint sees whether the client is \
        still there. When {longest} wait, another one gets a 503. Normal load is 200 a second, 60 % of capacity; for \
        30 s it is 600. Seeds 1 to {seeds}.\n\n\
        All contestants give a first token 3 s and a call 10 s, with 3 attempts. `plain retries` has no breaker, and its \
        repeats cost nothing; `none` has the retry budget alone. Normal goodput: in every 5 s to come, 95 % of calls are \
        answered. The time counts from the end of the trigger; the run goes on for 5 minutes behind it.\n\n{table}\n\
        ![One run of it](fleet-metastable.svg)\n",
        slots = CURVE.slots,
        slows_at = CURVE.slows_at,
        slowest = CURVE.slowest,
        longest = count(CURVE.longest as f64),
        table = table.print(),
    );
    (text, picture)
}
