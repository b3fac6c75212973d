-- The question: will this flight arrive 30 or more minutes late? Asked at its scheduled departure.
SELECT
    carrier,
    origin,
    dest,
    tailnum,
    flight,
    scheduled_departure_at AS event_timestamp,
    month,
    isodow(scheduled_departure_at AT TIME ZONE 'America/New_York') AS weekday,
    hour * 60 + minute AS departure_minute,
    sched_arr_time // 100 * 60 + sched_arr_time % 100 AS arrival_minute,
    date_diff('minute', scheduled_departure_at, scheduled_arrival_at) AS scheduled_minutes,
    distance,
    arr_delay >= 30 AS late,
    CASE
        WHEN arr_delay IS NOT NULL THEN NULL
        WHEN departed_at IS NULL THEN 'cancelled'
        ELSE 'diverted'
    END AS no_label_reason
FROM _movements
