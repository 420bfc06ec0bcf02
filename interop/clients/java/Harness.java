import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Named tests and the lines the runner reads; interop/clients/harness.py says what they mean. */
final class Harness {
    static final String BOOTSTRAP = System.getenv().getOrDefault("BOOTSTRAP", "127.0.0.1:9092");
    static final int TEST_TIMEOUT_S = 60;

    interface Test {
        void run() throws Exception;
    }

    private final Map<String, Test> tests = new LinkedHashMap<>();

    void test(String name, Test test) {
        tests.put(name, test);
    }

    /** Runs the tests named, or all, and ends the process. */
    void main(String[] names) {
        List<String> chosen = names.length > 0 ? Arrays.asList(names) : new ArrayList<>(tests.keySet());
        System.out.println("PLAN " + String.join(" ", chosen));
        boolean failed = false;
        ExecutorService runner = Executors.newCachedThreadPool(Harness::daemon);
        for (String name : chosen) {
            try {
                Callable<Void> body = () -> {
                    tests.get(name).run();
                    return null;
                };
                runner.submit(body).get(TEST_TIMEOUT_S, TimeUnit.SECONDS);
                System.out.println("PASS " + name);
            } catch (TimeoutException expired) {
                failed = true;
                System.out.println("FAIL " + name + " still running after " + TEST_TIMEOUT_S + " s");
            } catch (Exception error) {
                failed = true;
                System.out.println("FAIL " + name + " " + oneLine(error.getCause() == null ? error : error.getCause()));
            }
            System.out.flush();
        }
        Runtime.getRuntime().halt(failed ? 1 : 0);
    }

    static Thread daemon(Runnable body) {
        Thread thread = new Thread(body);
        thread.setDaemon(true);
        return thread;
    }

    static String unique(String prefix) {
        return prefix + "-" + UUID.randomUUID().toString().substring(0, 8);
    }

    static void same(Object found, Object expected, String what) {
        if (!Objects.equals(found, expected)) {
            throw new AssertionError(what + ": found " + shorten(found) + ", expected " + shorten(expected));
        }
    }

    static void yes(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    /** The body has to fail with this kind of error, or with one caused by it. */
    static void raises(Class<? extends Throwable> kind, Test body) {
        try {
            body.run();
        } catch (Throwable error) {
            for (Throwable each = error; each != null; each = each.getCause()) {
                if (kind.isInstance(each)) {
                    return;
                }
            }
            throw new AssertionError("expected " + kind.getSimpleName() + ", raised " + error, error);
        }
        throw new AssertionError("nothing raised, expected " + kind.getSimpleName());
    }

    static void eventually(Callable<Boolean> condition, String what) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (!condition.call()) {
            yes(System.nanoTime() < deadline, "not within 30 s: " + what);
            Thread.sleep(50);
        }
    }

    private static String shorten(Object value) {
        String text = String.valueOf(value);
        return text.length() < 300 ? text : text.substring(0, 140) + " ... " + text.substring(text.length() - 140);
    }

    private static String oneLine(Throwable error) {
        String place = "";
        for (StackTraceElement frame : error.getStackTrace()) {
            if (frame.getFileName() != null && !frame.getClassName().contains(".") && !frame.getFileName().startsWith("Harness")) {
                place = " (" + frame.getFileName() + ":" + frame.getLineNumber() + ")";
                break;
            }
        }
        return (error + place).replaceAll("\\s+", " ");
    }
}
