"""What the HTML pages of the commands have in common: one file each, nothing from elsewhere.

    document    the skeleton, and the policy that keeps everything else out
    axes        scales, grids and labels of charts in SVG
    page.css    the look, light and dark

Every text that a page is given is escaped by whoever puts it into markup.
"""
