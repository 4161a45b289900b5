"""Renders an HTML table from a template that was compiled at import."""

from chameleon import PageTemplate

import inputs

COLUMNS = 10
TEMPLATE = PageTemplate(
    """<table xmlns="http://www.w3.org/1999/xhtml" xmlns:tal="http://xml.zope.org/namespaces/tal">
<tr tal:repeat="row rows"><td tal:repeat="cell row">${cell}</td></tr>
</table>"""
)
TEMPLATE.cook_check()


def handler(event, context):
    draw = inputs.content(event)
    cells = inputs.size("chameleon", event)
    rows = [
        [int(draw.random() * 100000) for _ in range(COLUMNS)] for _ in range(max(1, cells // COLUMNS))
    ]
    html = TEMPLATE.render(rows=rows).encode()
    return inputs.answer("chameleon", event, len(html), html)
