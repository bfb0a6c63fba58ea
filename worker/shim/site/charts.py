"""Small bar charts as SVG. Pure.

Colours are classes (`series-1` …) of the style sheet, so that light and dark follow the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT, GAP = 480, 96, 2


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of what is counted, by bar; `style` is its colour's number, from 1."""

    name: str
    style: int
    values: Sequence[int]

    @property
    def total(self) -> int:
        """The sum of all bars."""
        return sum(self.values)


@dataclass(frozen=True, slots=True)
class Chart:
    """Stacked bars, oldest first. `span`: how long each stands for; `labels` name their beginnings; `summary` says it in words."""

    title: str
    span: str
    labels: Sequence[str]
    series: Sequence[Series]

    @property
    def peak(self) -> int:
        """The highest bar."""
        return max((sum(bar) for bar in zip(*(one.values for one in self.series), strict=True)), default=0)

    @property
    def summary(self) -> str:
        """The totals in words."""
        parts = [f"{one.name} {one.total:,}" for one in self.series if one.total]
        return f"{self.title}: {', '.join(parts) or 'nothing'}"

    @property
    def svg(self) -> Markup:
        """The bars; hovering over one shows its figures."""
        width = WIDTH / max(1, len(self.labels))
        bars = Markup("").join(self._bar(place, width) for place in range(len(self.labels)))
        return Markup(
            '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{label}" preserveAspectRatio="none">{bars}</svg>'
        ).format(w=WIDTH, h=HEIGHT, label=self.summary, bars=bars)

    def _bar(self, place: int, width: float) -> Markup:
        parts, top = [], float(HEIGHT)
        for one in self.series:
            if not one.values[place]:
                continue
            height = max(1.0, one.values[place] / self.peak * (HEIGHT - 4))
            top -= height
            parts.append(
                Markup('<rect class="series-{s}" x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}"/>').format(
                    s=one.style, x=place * width + GAP / 2, y=max(0.0, top), w=max(1.0, width - GAP), h=height
                )
            )
        figures = ", ".join(f"{one.name} {one.values[place]:,}" for one in self.series if one.values[place])
        hint = escape(f"{self.labels[place]}: {figures or 'nothing'}")
        cover = Markup('<rect class="hover" x="{x:.2f}" y="0" width="{w:.2f}" height="{h}"/>').format(
            x=place * width, w=width, h=HEIGHT
        )
        return Markup("<g>{}{}<title>{}</title></g>").format(Markup("").join(parts), cover, hint)


def stacked(
    title: str, span: str, labels: Sequence[str], counts: Mapping[tuple[int, str], int], styles: Mapping[str, int]
) -> Chart:
    """A chart of `counts` by (bar, name); `styles` gives each name its colour and their order. Other names are left out."""
    series = [
        Series(name, style, [counts.get((place, name), 0) for place in range(len(labels))])
        for name, style in styles.items()
    ]
    return Chart(title, span, labels, series)
