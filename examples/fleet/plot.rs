//! The pictures.

use plotters::{coord::ranged1d::ValueFormatter, prelude::*};

/// One line of a picture: its name, its colour, and its value at each second.
pub struct Line {
    pub name: &'static str,
    pub color: RGBColor,
    pub points: Vec<(f64, f64)>,
}

/// One of the pictures that stand above each other.
pub struct Panel {
    pub title: &'static str,
    /// The largest value; the axis is logarithmic from here to there.
    pub axis: Axis,
    pub lines: Vec<Line>,
}

/// What values a panel has room for.
pub enum Axis {
    /// From 0 to 1, written as percent.
    Share,
    /// From the one to the other; whatever is less is drawn at the bottom.
    Logarithmic(f64, f64),
}

/// Minutes in which something is wrong.
pub type Span = (f64, f64);

const GREY: RGBColor = RGBColor(235, 225, 225);
/// To the right of the panels, in pixels.
const LEGEND_WIDTH: i32 = 125;

const FONT: (&str, i32) = ("sans-serif", 13);

/// Draws panels above each other, over the same minutes.
pub fn draw(minutes: f64, wrong: Span, panels: &[Panel]) -> String {
    let mut text = String::new();
    {
        let height = 60 + 220 * u32::try_from(panels.len()).expect("a few panels");
        let root = SVGBackend::with_string(&mut text, (900, height)).into_drawing_area();
        root.fill(&WHITE).expect("drawing into memory");
        for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
            let (area, side) = area.split_horizontally(900 - LEGEND_WIDTH);
            explain(&side, &panel.lines);
            let mut chart = ChartBuilder::on(&area);
            chart.caption(panel.title, ("sans-serif", 16)).margin(8).x_label_area_size(34).y_label_area_size(52);
            match panel.axis {
                Axis::Share => {
                    let chart = chart.build_cartesian_2d(0.0..minutes, 0.0..1.05).expect("room");
                    fill(chart, wrong, (0.0, 1.05), panel, |value| format!("{:.0} %", value * 100.0));
                }
                Axis::Logarithmic(least, most) => {
                    let chart = chart.build_cartesian_2d(0.0..minutes, (least..most).log_scale()).expect("room");
                    fill(chart, wrong, (least, most), panel, |value| format!("{value}"));
                }
            }
        }
        root.present().expect("drawing into memory");
    }
    text
}

type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>;

fn fill<Y>(mut chart: Chart<'_, '_, Y>, wrong: Span, values: (f64, f64), panel: &Panel, print: fn(f64) -> String)
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let (least, most) = values;
    let shade = Rectangle::new([(wrong.0, least), (wrong.1, most)], GREY.filled());
    chart.draw_series([shade]).expect("drawing into memory");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(20)
        .y_labels(6)
        .x_label_formatter(&|minute| format!("{minute}"))
        .y_label_formatter(&|value| print(*value))
        .x_desc("minutes")
        .label_style(FONT)
        .draw()
        .expect("drawing into memory");
    // The first lies on top.
    for Line { color, points, .. } in panel.lines.iter().rev() {
        let points = points.iter().map(|(minute, value)| (*minute, value.clamp(least, most)));
        chart.draw_series(LineSeries::new(points, color.stroke_width(2))).expect("drawing into memory");
    }
}

/// Which colour is whose.
fn explain(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, lines: &[Line]) {
    for (y, Line { name, color, .. }) in (40..).step_by(20).zip(lines) {
        let stroke = PathElement::new([(4, y), (24, y)], color.stroke_width(2));
        area.draw(&stroke).expect("drawing into memory");
        area.draw(&Text::new(*name, (30, y - 7), FONT)).expect("drawing into memory");
    }
}
