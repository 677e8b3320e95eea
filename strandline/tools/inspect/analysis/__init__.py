"""What a log is made of, in one pass and bounded memory: for `stats` and `report`.

figures     what an analysis says: shapes only
analyse     the pass over the frames
counting    operations, counted by the batch
sketch      distinct keys and hot keys in bounded memory
spread      histograms that still tell percentiles
rates       writes over time
sync_lag    how far syncs stay behind writes
bars        bars and sparklines of characters
"""
