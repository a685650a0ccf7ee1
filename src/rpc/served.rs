//! A program that is served, with what the service needs of it for each call: its number, its
//! versions, and the labels by which its calls are counted.

use std::sync::Arc;

use super::program::Program;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::names::ProcedureLabel;

/// A program that is served.
pub struct ServedProgram {
    /// The program.
    pub program: Arc<dyn Program>,
    /// Its number.
    pub number: u32,
    /// The lowest and the highest version that are served.
    pub versions: (u32, u32),
    /// For each version, the labels of its procedures by their numbers.
    labels: Vec<Vec<ProcedureLabel>>,
}

impl ServedProgram {
    /// Serves a program. Its calls are counted in `metrics`.
    pub fn new(program: Arc<dyn Program>, metrics: &Metrics) -> Self {
        let (number, versions) = (program.number(), program.versions());
        let labels = (versions.0..=versions.1).map(|version| {
            let names = program.names(version);
            let mut labels = Vec::new();
            for (number, name) in names.procedures {
                let number = number as usize;
                labels.resize(labels.len().max(number + 1), ProcedureLabel::OTHER);
                labels[number] = metrics.labels().find(names.program, name);
            }
            labels
        });
        let labels = labels.collect();
        Self { program, number, versions, labels }
    }

    /// Returns the label of a procedure; `version` is one of those served.
    pub fn label(&self, version: u32, procedure: u32) -> ProcedureLabel {
        let labels = &self.labels[(version - self.versions.0) as usize];
        labels.get(procedure as usize).copied().unwrap_or(ProcedureLabel::OTHER)
    }
}
