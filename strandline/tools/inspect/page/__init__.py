"""The page that `wal-inspect report` writes.

    render      the whole page
    words       text in which nothing acts on a browser, or on whoever reads it
    verdict     what the log holds, how it is, and what was found
    cells       the map as rows of cells: bounded, whatever the log
    merging     which regions share a cell, which segments a row
    mapping     the map as markup, and the details as JSON for map.js
    charts      writes over time, in SVG
    figures     sizes, coalescing, hot keys, sync lag
    page.css, map.js

The page is bounded: however many segments, damages and keys a log has, it stays below a
few megabytes, and says what it left out. No text of the log gets into it but through `words`.
"""
