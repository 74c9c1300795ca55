//! What is logged on the thread of a test.
//!
//! All tests of a process share one subscriber. A subscriber per test loses lines: tracing asks for the interest in an event
//! once, where the event is met first, and that may be on the thread of another test, which has no subscriber.
use std::{
    cell::RefCell,
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex, Once},
};

use tracing::{Event, Metadata, Subscriber, field::Field, span};
use tracing_subscriber::{layer::Context, prelude::*, registry::LookupSpan};

thread_local! {
    static RECORDED: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// Every event and span of this thread, of every level and target, one per line: level, target, fields.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<String>>);

/// Ends the recording when it is dropped.
#[must_use]
pub struct Recording(());

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDED.set(None);
    }
}

impl Log {
    pub fn record() -> (Self, Recording) {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            let subscriber = tracing_subscriber::registry().with(Recorder);
            tracing::subscriber::set_global_default(subscriber).expect("another subscriber of the process");
        });
        tracing::callsite::rebuild_interest_cache();
        let log = Self::default();
        assert!(RECORDED.replace(Some(log.clone())).is_none(), "this thread is recorded already");
        (log, Recording(()))
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// The lines that contain `part`.
    pub fn lines(&self, part: &str) -> Vec<String> {
        self.text().lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    fn line(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields)) {
        let mut fields = Fields(String::new());
        record(&mut fields);
        writeln!(self.0.lock().unwrap(), "{} {}:{}", metadata.level(), metadata.target(), fields.0).unwrap();
    }
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}").unwrap(),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

struct Recorder;

/// `None` on a thread that is not recorded, or is about to end.
fn recorded() -> Option<Log> {
    RECORDED.try_with(|log| log.borrow().clone()).ok().flatten()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(log) = recorded() {
            log.line(event.metadata(), |fields| event.record(fields));
        }
    }

    fn on_new_span(&self, span: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        if let Some(log) = recorded() {
            log.line(span.metadata(), |fields| span.record(fields));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let (Some(log), Some(span)) = (recorded(), context.span(id)) {
            log.line(span.metadata(), |fields| values.record(fields));
        }
    }
}
