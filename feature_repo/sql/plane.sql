-- What the registry says of a plane. It stood before the first flight of the year.
SELECT
    tailnum,
    TIMESTAMPTZ '2013-01-01 00:00:00+00' AS event_timestamp,
    year::FLOAT AS built,
    seats::FLOAT AS seats,
    engines::FLOAT AS engines
FROM planes
