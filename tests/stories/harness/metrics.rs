//! Parses metrics as Prometheus does.

use super::Http;

/// A snapshot of a process's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub text: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    /// `name="value"`, in their original order.
    labels: Vec<String>,
    value: f64,
}

impl Metrics {
    /// Parses the text form. Panics on a line that is neither a sample nor a comment.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Self { text: text.to_owned(), samples }
    }

    /// The sum of all samples with this name and these labels; `None` without any.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let fits = |one: &&Sample| one.name == name && wanted.iter().all(|label| one.labels.contains(label));
        let found: Vec<f64> = self.samples.iter().filter(fits).map(|one| one.value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The same, for a sample that must exist.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in\n{}", self.text))
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }
}

impl Http {
    /// The metrics of the process at the other end.
    pub fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Metrics::parse(&answer.text())
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels: {line}"));
    // No label value of ours has a comma after a quotation mark.
    let labels = labels.split_inclusive("\",").map(|label| label.trim_end_matches(',').to_owned());
    Sample { name: name.to_owned(), labels: labels.collect(), value }
}
